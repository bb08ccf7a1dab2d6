// Loaded into the engine's process by `node --import`: measures how long its event loop is held up, on demand, and tells
// by IPC. It does nothing until it is asked, and keeps nothing alive.
import { monitorEventLoopDelay } from "node:perf_hooks";

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
  }
});
process.channel?.unref();
