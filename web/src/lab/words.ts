/** Names and numbers as a person reads them. */

export const LAWS: Record<string, string> = {
  square: "Square",
  concentric_squares: "Concentric squares (5 classes)",
  checkerboard: "Checkerboard",
  gaussian: "Gaussian",
  eight_gaussians: "Eight Gaussians (8 classes)",
  two_moons: "Two moons (2 classes)",
  circles: "Circles (2 classes)",
  spiral: "Spiral (2 classes)",
};

export const SOLVER_NAMES: Record<string, string> = {
  adams: "Adams (ODE)",
  euler: "Euler (ODE)",
  heun: "Heun (ODE)",
  rk4: "Runge–Kutta 4 (ODE)",
  multistep2: "Multistep 2 (ODE)",
  multistep3: "Multistep 3 (ODE)",
  "euler-maruyama": "Euler–Maruyama (SDE)",
  "predictor-corrector": "Predictor–corrector (SDE)",
};

export const TARGETS: Record<string, string> = { noise: "the noise", data: "the clean point", edm: "EDM's mix of both" };

/** A number with three digits that matter, and a real minus sign. */
export function number(v: number, digits = 3): string {
  if (v === Infinity) return "∞";
  if (v === -Infinity) return "−∞";
  if (Number.isNaN(v)) return "not a number";
  const size = Math.abs(v);
  const text = size !== 0 && (size < 1e-3 || size >= 1e5) ? v.toExponential(digits - 1) : Number(v.toPrecision(digits)).toString();
  return text.replace("-", "−");
}

/** Log-densities have three decimals. */
export const nats = (v: number): string => (Number.isFinite(v) ? v.toFixed(3).replace("-", "−") : number(v));
