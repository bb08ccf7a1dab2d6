import type { Duplex } from "node:stream";

/**
 * Joins two streams both ways, half-close included, until both directions have ended or one breaks. What breaks one breaks the
 * other.
 */
export function splice(one: Duplex, other: Duplex): void {
  flow(one, other);
  flow(other, one);
}

/** One direction of a splice. */
export function flow(from: Duplex, to: Duplex): { stop(): void } {
  // Not pipe(): its closures and bound listeners are most of what an idle connection takes.
  const onData = (chunk: Buffer) => {
    if (!to.write(chunk)) from.pause();
  };
  const onDrain = () => from.resume();
  const onEnd = () => to.end();
  const onError = () => to.destroy();
  const onClose = () => {
    if (from.readableEnded) return;
    from.destroy();
    to.destroy();
  };
  from.on("data", onData).on("end", onEnd).on("error", onError).on("close", onClose);
  to.on("drain", onDrain).on("close", onClose);
  if (from.readableEnded) process.nextTick(onEnd);
  else if (to.writableNeedDrain) from.pause();
  else from.resume();
  return {
    stop() {
      from.off("data", onData).off("end", onEnd).off("error", onError).off("close", onClose).pause();
      to.off("drain", onDrain).off("close", onClose);
    },
  };
}
