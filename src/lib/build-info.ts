import { readFileSync } from "node:fs";
import { join } from "node:path";

export interface BuildInfo {
  version: string;
  /** Short commit hash, `unknown` outside a build. */
  commit: string;
  /** RFC 3339, `unknown` outside a build. */
  build_date: string;
}

/** What this code was built from: package.json, and dist/build.json, which scripts/build.mjs writes. */
export function buildInfo(): BuildInfo {
  const version = readJson("../../package.json").version;
  const { commit, build_date } = readJson("../../dist/build.json");
  return {
    version: typeof version === "string" ? version : "unknown",
    commit: typeof commit === "string" ? commit : "unknown",
    build_date: typeof build_date === "string" ? build_date : "unknown",
  };
}

function readJson(relative: string): Record<string, unknown> {
  try {
    return JSON.parse(readFileSync(join(import.meta.dirname, relative), "utf8"));
  } catch {
    return {};
  }
}
