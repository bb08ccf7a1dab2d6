// Builds an image and removes it, and kills itself at a step on the way. argv: state directory, owner id, step, tag.
import { silentLogger } from "../../../src/lib/log.ts";
import { openOciRuntime } from "../../../src/runtimes/oci/runtime.ts";
import { buildContext, tinyImage } from "../../../src/testing/build-context.ts";

const [stateDir = "", ownerId = "", step, tag = ""] = process.argv.slice(2);
const runtime = await openOciRuntime({
  stateDir,
  ownerId,
  log: silentLogger,
  ociProgram: "crun",
  onStep: (done) => {
    if (done === step) process.kill(process.pid, "SIGKILL");
  },
});
const dockerfile = `${tinyImage}RUN busybox touch /made\n`;
// With a network there is more to be left behind.
const open = { network: "open" as const, reach: { rules: [], internal: ["10.0.0.0/8"] } };
await runtime.images.store?.build({ tag, context: buildContext({ dockerfile }), ...open });
await runtime.images.store?.remove(tag);
await runtime.close();
