// Builds dist/: the library and its types with tsc, the CLI with esbuild. `--cli` builds only the CLI.
import { execFileSync, spawnSync } from "node:child_process";
import {
  chmodSync,
  copyFileSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  renameSync,
  rmSync,
  writeFileSync,
} from "node:fs";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";
import { build } from "esbuild";

const root = dirname(dirname(fileURLToPath(import.meta.url)));
const dist = join(root, "dist");
const at = (...parts) => join(root, ...parts);

/** In cli.js, the way to the other bundle: what src/cli/loader.cjs hands in. */
const otherBundle = {
  name: "other-bundle",
  setup({ onLoad }) {
    onLoad({ filter: /\/with-engine\.ts$/ }, () => ({
      contents: "export const runCli = async (context) => (await importEngine()).runCli(context);",
    }));
  },
};

/**
 * In cli.js, modules of Node that cost milliseconds to load and that a command in a sandbox of this machine never uses. The packages
 * ask for them at their top; here they are loaded when the first function of theirs is called.
 */
const lazyModules = {
  name: "lazy-modules",
  setup({ onResolve, onLoad }) {
    onResolve({ filter: /^(node:)?(child_process|crypto|http|https|tls|zlib)$/ }, ({ path, namespace }) =>
      namespace === "lazy"
        ? { path, external: true }
        : { path: path.replace("node:", ""), namespace: "lazy" },
    );
    onLoad({ filter: /.*/, namespace: "lazy" }, async ({ path }) => {
      const lines = Object.entries(await import(`node:${path}`)).map(([name, value]) => {
        const real = `require("node:${path}")["${name}"]`;
        // Packages take functions out of crypto at their top, which a property would take for a use.
        return path === "crypto" && typeof value === "function"
          ? `exports["${name}"] = function (...args) { return new.target ? Reflect.construct(${real}, args) : ${real}(...args); };`
          : `Object.defineProperty(exports, "${name}", { enumerable: true, get: () => ${real} });`;
      });
      return { contents: lines.join("\n") };
    });
  },
};

mkdirSync(dist, { recursive: true });
if (!process.argv.includes("--cli")) buildLibrary();
await buildCli();
writeBuildInfo();

function buildLibrary() {
  const tsc = spawnSync(
    process.execPath,
    [at("node_modules/typescript/bin/tsc"), "-p", at("tsconfig.build.json")],
    {
      stdio: "inherit",
    },
  );
  if (tsc.status !== 0) process.exit(tsc.status ?? 1);
}

/**
 * The CLI as two bundles, because a short command should cost little more than Node itself: cli.js is CommonJS, which
 * starts faster than ES modules, and holds all that talks to an engine; engine.mjs holds the engine as well, and is
 * loaded by the commands that need it. main.js runs cli.js with its compiled form, cli.cache. All lie in dist/cli, as deep
 * as the files of src/lib that find things by path.
 */
async function buildCli() {
  // Built aside and moved in whole: a CLI that starts meanwhile sees the old files or the new ones.
  const draft = mkdtempSync(join(dist, ".cli-"));
  const options = {
    absWorkingDir: root,
    bundle: true,
    platform: "node",
    target: "node20",
    sourcemap: "linked",
    sourcesContent: false,
    legalComments: "none",
    logLevel: "warning",
  };
  try {
    await build({
      ...options,
      entryPoints: ["src/cli/main.ts"],
      outfile: join(draft, "cli.js"),
      format: "cjs",
      minify: true,
      // Only the other bundle has these.
      external: [
        "./commands/serve.ts",
        "./commands/doctor.ts",
        "./pack-directory.ts",
        "bufferutil",
        "utf-8-validate",
      ],
      plugins: [otherBundle, lazyModules],
      define: { "import.meta.filename": "__filename", "import.meta.dirname": "importMetaDirname" },
      // The whole file is one function, for src/cli/loader.cjs.
      banner: {
        js: '(function (require, __filename, importEngine) { const importMetaDirname = require("node:path").dirname(__filename);',
      },
      footer: { js: "})" },
    });
    await build({
      ...options,
      entryPoints: ["src/cli/with-engine.ts"],
      outfile: join(draft, "engine.mjs"),
      format: "esm",
      // libsql has a native part; pino finds its worker beside its own files; what makes certificates is seldom needed.
      external: ["libsql", "pino", "@peculiar/x509", "reflect-metadata", "bufferutil", "utf-8-validate"],
      // CommonJS packages inside the bundle ask for Node's modules with require.
      banner: {
        js: 'import { createRequire } from "node:module"; const require = createRequire(import.meta.url);',
      },
    });
    writeFileSync(join(draft, "package.json"), '{"type":"commonjs"}\n');
    chmodSync(draft, 0o755);
    copyFileSync(at("src/cli/loader.cjs"), join(draft, "main.js"));
    chmodSync(join(draft, "main.js"), 0o755);
    writeCodeCache(join(draft, "cli.js"), join(draft, "cli.cache"));
    // What users call: the front runs main.js beside it. Where it can't be built, main.js itself.
    const front = at("native/build/warren");
    copyFileSync(existsSync(front) ? front : join(draft, "main.js"), join(draft, "warren"));
    chmodSync(join(draft, "warren"), 0o755);
    replaceDirectory(draft, join(dist, "cli"));
  } finally {
    rmSync(draft, { recursive: true, force: true });
  }
}

/**
 * V8's code of the functions that common commands use, for src/cli/loader.cjs: of all functions it would take longer to load than
 * it saves. It holds for this version of Node only.
 */
function writeCodeCache(source, cache) {
  const warm = spawnSync(process.execPath, [at("scripts/warm-cli.cjs"), source, cache], {
    stdio: ["ignore", "ignore", "inherit"],
    // A command's own settings have no say in what a build makes.
    env: { PATH: process.env.PATH },
    timeout: 60_000,
  });
  if (warm.status !== 0) throw new Error("the CLI's code could not be cached");
}

/** Another build may do the same at this moment: then the later one wins. */
function replaceDirectory(draft, target) {
  for (let attempt = 0; ; attempt++) {
    const old = `${draft}.old${attempt}`;
    try {
      if (existsSync(target)) renameSync(target, old);
      renameSync(draft, target);
      return;
    } catch (error) {
      if (attempt === 10 || (error.code !== "ENOTEMPTY" && error.code !== "ENOENT")) throw error;
    } finally {
      rmSync(old, { recursive: true, force: true });
    }
  }
}

/** What src/lib/build-info.ts reads. */
function writeBuildInfo() {
  let commit = "unknown";
  try {
    commit = execFileSync("git", ["-C", root, "rev-parse", "--short=12", "HEAD"], {
      encoding: "utf8",
      stdio: ["ignore", "pipe", "ignore"],
    }).trim();
  } catch {
    // Not a checkout.
  }
  writeFileSync(
    join(dist, "build.json"),
    `${JSON.stringify({ commit, build_date: new Date().toISOString() })}\n`,
  );
}
