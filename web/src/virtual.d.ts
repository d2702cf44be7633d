/** The version of the package that the page belongs to. */
declare const __VERSION__: string;

declare module "virtual:kernel" {
  /** The compiled kernels of `kernel/kernel.ts`. */
  export function kernelBytes(): Uint8Array<ArrayBuffer>;
}
