#!/usr/bin/env node
// dist/cli/main.js: runs cli.js beside it with the code that V8 left in cli.cache during the build, which saves a short
// command the time to compile. V8 checks that the cache fits its version; when it does not, it compiles as usual.
const { readFileSync } = require("node:fs");
const { Script } = require("node:vm");

const filename = `${__dirname}/cli.js`;
// The build writes nothing but ASCII, and this way of reading it is the fastest.
const source = readFileSync(filename).latin1Slice();
const script = new Script(source, { filename, cachedData: readCache() });
// The engine's bundle is imported from here: code from a cache resolves paths against where it was compiled.
script.runInThisContext()(require, __filename, () => import("./engine.mjs"));

function readCache() {
  try {
    return readFileSync(`${__dirname}/cli.cache`);
  } catch {
    return undefined;
  }
}
