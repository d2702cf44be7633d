/** The Gaussian that solvers, flow and bound are measured from (`distributions.Reference`). */

import type { Law } from "./laws";
import type { Labels, Moments } from "./types";

/** `N(mean, C)` with `C = axes diag(variance) axes^T`; `axes` holds the first column, then the second. */
export interface Frame {
  mean: [number, number];
  variance: [number, number];
  axes: [number, number, number, number];
}

function frame({ mean, covariance: [a, b, d] }: Moments): Frame {
  const half = (a - d) / 2, root = Math.hypot(half, b);
  const middle = (a + d) / 2, angle = Math.atan2(b, half) / 2;
  const c = Math.cos(angle), s = Math.sin(angle);
  // The angle is that of the larger eigenvalue; the smaller one is the determinant over it.
  const large = middle + root;
  const small = large > 0 ? Math.max((a * d - b * b) / large, 0) : 0;
  return { mean, variance: [small, large], axes: [-s, c, c, s] };
}

/** For each row the Gaussian of its class's moments, or of the whole without labels. */
export class Reference {
  private constructor(
    readonly frames: Frame[],
    private readonly label: Labels,
  ) {}

  static of(law: Law, label: Labels): Reference {
    return new Reference((label ? law.classMoments : [law.moments]).map(frame), label);
  }

  widened(variance: number): Reference {
    const frames = this.frames.map((f): Frame => ({
      ...f,
      variance: [Math.max(f.variance[0], variance), Math.max(f.variance[1], variance)],
    }));
    return new Reference(frames, this.label);
  }

  /** For n rows their class, and of each class the mean (2), the axes (4) and the variances (2) in flat tables. */
  tables(n: number): { kind: Int32Array; mean: Float64Array; axes: Float64Array; variance: Float64Array } {
    return {
      kind: this.label ?? new Int32Array(n),
      mean: Float64Array.from(this.frames.flatMap((f) => f.mean)),
      axes: Float64Array.from(this.frames.flatMap((f) => f.axes)),
      variance: Float64Array.from(this.frames.flatMap((f) => f.variance)),
    };
  }
}
