/** Colours that people with any colour vision tell apart. */

/** Classes: after the palette of Okabe and Ito, without black and yellow; lighter on a dark page. */
const CLASSES = {
  light: ["#0072b2", "#e69f00", "#009e73", "#d55e00", "#cc79a7", "#56b4e9", "#8c6d31", "#7570b3"],
  dark: ["#56b4e9", "#f0b429", "#2fc79b", "#f2784b", "#e39ac4", "#9db8ff", "#c8a860", "#a8a2e0"],
};

/** The colour of a class. */
export const classColor = (c: number, dark: boolean): string => CLASSES[dark ? "dark" : "light"][c % 8]!;

type Rgb = [number, number, number];

const parse = (hex: string): Rgb => [1, 3, 5].map((i) => parseInt(hex.slice(i, i + 2), 16)) as Rgb;

/** A scale through these colours, as a table of 256. */
function scale(stops: string[]): Uint8Array {
  const colors = stops.map(parse), table = new Uint8Array(256 * 3);
  for (let i = 0; i < 256; i++) {
    const at = (i / 255) * (colors.length - 1), low = Math.min(Math.floor(at), colors.length - 2), t = at - low;
    for (let k = 0; k < 3; k++) table[3 * i + k] = Math.round(colors[low]![k]! * (1 - t) + colors[low + 1]![k]! * t);
  }
  return table;
}

/** Density from nothing to most, in a grey on which the colours of the classes stand out. */
const DENSITY = {
  light: scale(["#ffffff", "#e3e9f0", "#c0ccd9", "#9aabbe", "#75899f", "#526579"]),
  dark: scale(["#14181f", "#232c3a", "#35445a", "#4c607c", "#6c819d", "#97a9be"]),
};
/** Less than the truth in orange, more in blue. */
const DIFFERENCE = {
  light: scale(["#b35806", "#f1a340", "#fee0b6", "#ffffff", "#d1e5f0", "#67a9cf", "#1f5f9f"]),
  dark: scale(["#f1a340", "#b35806", "#5a3410", "#14181f", "#123a57", "#2f86b3", "#8fd0ea"]),
};

/** The log-density that 3 % of the mass exceeds: a few peaks must not hide the rest. */
function nearlyMost(values: Float32Array): number {
  const sorted = values.filter(Number.isFinite).sort(), top = sorted[sorted.length - 1] ?? 0;
  const mass = sorted.reduce((sum, v) => sum + Math.exp(v - top), 0);
  let above = 0, i = sorted.length - 1;
  for (; i > 0 && above < 0.03 * mass; i--) above += Math.exp(sorted[i]! - top);
  return sorted[Math.max(i, 0)] ?? 0;
}

/** The pixels of a map of log-densities, the first row at the top. */
export function mapPixels(
  values: Float32Array, size: number, kind: "exact" | "learned" | "difference" | "class", dark: boolean,
): ImageData {
  const image = new ImageData(size, size), theme = dark ? "dark" : "light";
  const most = kind === "exact" || kind === "learned" ? nearlyMost(values) : 0;
  const floor = parse(dark ? "#14181f" : "#ffffff");
  for (let row = 0; row < size; row++) {
    for (let column = 0; column < size; column++) {
      const v = values[(size - 1 - row) * size + column]!, at = 4 * (row * size + column);
      let color: ArrayLike<number>;
      if (kind === "class") {
        const c = Math.floor(v), p = Math.max(2 * (v - c), 0), own = parse(classColor(c, dark));
        color = own.map((one, k) => floor[k]! + (one - floor[k]!) * 0.7 * p ** 2);
      } else {
        // Densities from 0 to the largest; differences from -1 to 1 nat.
        const share = kind === "difference" ? (v + 1) / 2 : Math.exp(v - most);
        const i = Math.round(255 * Math.min(Math.max(Number.isNaN(share) ? 0 : share, 0), 1));
        color = (kind === "difference" ? DIFFERENCE : DENSITY)[theme].subarray(3 * i, 3 * i + 3);
      }
      image.data[at] = color[0]!;
      image.data[at + 1] = color[1]!;
      image.data[at + 2] = color[2]!;
      image.data[at + 3] = 255;
    }
  }
  return image;
}
