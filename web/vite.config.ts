import { createHash } from "node:crypto";
import { readFileSync } from "node:fs";
import { svelte } from "@sveltejs/vite-plugin-svelte";
import * as asc from "assemblyscript/asc";
import type { Plugin } from "vite";
import { viteSingleFile } from "vite-plugin-singlefile";
import { defineConfig } from "vitest/config";

/** `virtual:kernel`: the AssemblyScript kernels, compiled, as a function that returns their bytes. */
function kernel(): Plugin {
  let code: Promise<string> | null = null;
  const compile = async (): Promise<string> => {
    const flags = ["kernel/kernel.ts", "-O3", "--noAssert", "--runtime", "stub", "--enable", "simd", "--outFile", "out.wasm"];
    let bytes: Uint8Array | null = null;
    const { error, stderr } = await asc.main(flags, {
      writeFile: (name, contents) => {
        if (name === "out.wasm") bytes = contents as Uint8Array;
      },
    });
    if (error || !bytes) throw new Error(`the kernels do not compile: ${stderr.toString()}`);
    const text = Buffer.from(bytes).toString("base64");
    return `export function kernelBytes() { return Uint8Array.from(atob("${text}"), (c) => c.charCodeAt(0)); }`;
  };
  return {
    name: "kernel",
    resolveId: (id) => (id === "virtual:kernel" ? "\0kernel" : null),
    load: (id) => (id === "\0kernel" ? (code ??= compile()) : null),
  };
}

/** The strictest policy that works, with the digests of the one script and the one style sheet. */
function policy(): Plugin {
  const digest = (text: string): string => `'sha256-${createHash("sha256").update(text).digest("base64")}'`;
  return {
    name: "policy",
    enforce: "post",
    generateBundle: {
      order: "post",
      handler(_, bundle) {
        const page = bundle["index.html"];
        if (page?.type !== "asset") return;
        const html = String(page.source);
        const all = (tag: string): string =>
          [...html.matchAll(new RegExp(`<${tag}[^>]*>([\\s\\S]*?)</${tag}>`, "g"))]
            .filter(([whole]) => !whole.includes('type="application/'))
            .map(([, text]) => digest(text!))
            .join(" ");
        const rules = [
          "default-src 'none'",
          `script-src ${all("script")} 'wasm-unsafe-eval'`,
          "worker-src blob:",
          `style-src ${all("style")}`,
          "img-src data: blob:",
          "base-uri 'none'",
          "form-action 'none'",
        ].join("; ");
        page.source = html.replace("POLICY", rules);
      },
    },
  };
}

/** The version of the package, from its one source. */
function version(): string {
  const text = readFileSync(new URL("../toydiffusion/__init__.py", import.meta.url), "utf8");
  return /__version__ = "([^"]+)"/.exec(text)![1]!;
}

export default defineConfig({
  define: { __VERSION__: JSON.stringify(version()) },
  plugins: [kernel(), svelte(), viteSingleFile({ removeViteModuleLoader: true }), policy()],
  worker: { format: "iife", plugins: () => [kernel()] },
  build: { target: "es2022", outDir: "../toydiffusion/lab/page", emptyOutDir: true, modulePreload: false },
  test: { include: ["tests/*.test.ts"], testTimeout: 60_000 },
});
