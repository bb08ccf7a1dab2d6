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
  const breakTo = () => void to.destroy();
  const onFromClose = () => {
    if (!from.readableEnded) to.destroy();
  };
  const onToClose = () => {
    if (!from.readableEnded) from.destroy();
  };
  from.on("error", breakTo);
  from.once("close", onFromClose);
  to.once("close", onToClose);
  from.pipe(to);
  return {
    stop() {
      from.unpipe(to);
      from.removeListener("error", breakTo);
      from.removeListener("close", onFromClose);
      to.removeListener("close", onToClose);
    },
  };
}
