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

  kind(i: number): number {
    return this.label ? this.label[i]! : 0;
  }

  /** `axes^T (z - mean)` of row i into `out[0..1]`. */
  turned(i: number, x: number, y: number, out: Float64Array): void {
    const { mean, axes } = this.frames[this.kind(i)]!;
    const dx = x - mean[0], dy = y - mean[1];
    out[0] = axes[0] * dx + axes[1] * dy;
    out[1] = axes[2] * dx + axes[3] * dy;
  }

  /** `mean + axes (a, b)` of row i into `out[2 i..]`. */
  back(i: number, a: number, b: number, out: Float64Array): void {
    const { mean, axes } = this.frames[this.kind(i)]!;
    out[2 * i] = mean[0] + axes[0] * a + axes[2] * b;
    out[2 * i + 1] = mean[1] + axes[1] * a + axes[3] * b;
  }
}
