/** The compiled matrix kernels (`kernel/kernel.ts`), and memory for their tables. */

interface Kernels {
  memory: WebAssembly.Memory;
  layer(
    out: number, inner: number, weight: number, bias: number,
    inputs: number, outputs: number, columns: number, biased: number, stride: number,
  ): void;
  outer(gradient: number, slope: number, inner: number, inputs: number, outputs: number): void;
  rowSums(sums: number, tile: number, features: number, columns: number): void;
  transpose(out: number, weight: number, inputs: number, outputs: number): void;
  silu(out: number, before: number, numbers: number, keep: boolean): void;
  times(slope: number, factor: number, numbers: number): void;
  siluTangents(tile: number, features: number, columns: number, points: number): void;
  edges(
    out: number, place: number, direction: number, offset: number, more: number, softness: number,
    level: number, ahead: number, count: number, points: number, columns: number, tangents: boolean,
  ): void;
  edgesBackward(
    slope: number, unit: number, ahead: number, softness: number, level: number, gradient: number,
    count: number, columns: number,
  ): void;
  gather(out: number, table: number, row: number, features: number, points: number, columns: number): void;
  scatter(table: number, slope: number, row: number, features: number, columns: number): void;
  adam(
    weights: number, average: number, mean: number, square: number, gradient: number,
    numbers: number, rate: number, second: number, share: number,
  ): void;
}

let module: WebAssembly.Module | null = null;

/** Compile the kernels; all engines share the result. */
export function compileKernels(bytes: BufferSource): void {
  module = new WebAssembly.Module(bytes);
}

/** The kernels with a memory of their own, and the addresses of its tables of float32. */
export class Workspace {
  readonly run: Kernels;
  private top = 65536;

  constructor() {
    if (!module) throw new Error("the kernels are not compiled yet");
    this.run = new WebAssembly.Instance(module).exports as unknown as Kernels;
  }

  /** The address of so many new float32 zeros. */
  table(numbers: number): number {
    const at = this.top;
    this.top += Math.ceil(numbers / 4) * 16;
    const missing = this.top - this.run.memory.buffer.byteLength;
    if (missing > 0) this.run.memory.grow(Math.ceil(missing / 65536));
    return at;
  }

  /** A view of the float32 at an address. It is lost when another table is made. */
  floats(at: number, numbers: number): Float32Array {
    return new Float32Array(this.run.memory.buffer, at, numbers);
  }

  /** A view of the whole numbers at an address. */
  integers(at: number, numbers: number): Int32Array {
    return new Int32Array(this.run.memory.buffer, at, numbers);
  }
}
