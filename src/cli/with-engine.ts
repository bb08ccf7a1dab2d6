// Entry of the bundle that holds the engine beside the whole command line; see scripts/build.mjs.
export { runCli } from "./program.ts";
