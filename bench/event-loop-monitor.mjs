// Loaded into the engine's process by `node --import`: measures how long its event loop is held up, and what memory is in use
// once what is garbage has been collected, on demand, and tells by IPC. It does nothing until it is asked, and keeps nothing
// alive.
import { monitorEventLoopDelay } from "node:perf_hooks";
import { setFlagsFromString } from "node:v8";
import { runInNewContext } from "node:vm";

/** The histogram's timer, in milliseconds; a delay is what comes on top. */
const RESOLUTION_MS = 2;
let histogram;

process.on("message", (message) => {
  if (message === "start") {
    histogram = monitorEventLoopDelay({ resolution: RESOLUTION_MS });
    histogram.enable();
  } else if (message === "stop" && histogram) {
    histogram.disable();
    const ms = (nanoseconds) => Math.max(0, nanoseconds / 1e6 - RESOLUTION_MS);
    process.send({
      p50: ms(histogram.percentile(50)),
      p99: ms(histogram.percentile(99)),
      max: ms(histogram.max),
      rssMiB: process.memoryUsage().rss / 2 ** 20,
    });
  } else if (message === "memory") {
    setFlagsFromString("--expose-gc");
    const collect = runInNewContext("gc");
    // What finalisers let go is collected by the next one.
    for (let i = 0; i < 3; i++) collect();
    const { heapUsed, external } = process.memoryUsage();
    process.send({ usedKiB: (heapUsed + external) / 1024 });
  }
});
process.channel?.unref();
