import { mkdtempSync, rmSync } from "node:fs";
import { dirname, join } from "node:path";
import { fileURLToPath, pathToFileURL } from "node:url";
import { build } from "esbuild";

export const root = dirname(dirname(fileURLToPath(import.meta.url)));

/** The exports of a TypeScript file of the checkout. */
export async function importSource(path) {
  // Inside the checkout, so that packages that stay outside the bundle are found.
  const draft = mkdtempSync(join(root, "node_modules", ".bundled-"));
  try {
    const outfile = join(draft, "bundle.mjs");
    await build({
      absWorkingDir: root,
      entryPoints: [path],
      outfile,
      bundle: true,
      format: "esm",
      platform: "node",
      packages: "external",
      target: "node20",
      logLevel: "warning",
    });
    return await import(pathToFileURL(outfile).href);
  } finally {
    rmSync(draft, { recursive: true, force: true });
  }
}
