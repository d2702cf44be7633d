declare module "virtual:kernel" {
  /** The compiled kernels of `kernel/kernel.ts`. */
  export function kernelBytes(): Uint8Array<ArrayBuffer>;
}
