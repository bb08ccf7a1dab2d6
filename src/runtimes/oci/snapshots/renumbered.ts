import { mkdir, readdir, rename } from "node:fs/promises";
import { basename, dirname, join } from "node:path";
import { statOrUndefined } from "../../../lib/files.ts";
import { createSingleFlight } from "../../../lib/single-flight.ts";
import { withDiskGuard } from "../../common/images/disk-guard.ts";
import type { Launcher } from "../launcher-client.ts";
import { FIRST_SUBORDINATE } from "../subordinate-ids.ts";

/** A layer as it was taken, in a directory of its own: its root directory has the owner and mode that it had inside. */
export const layerIn = (home: string): string => join(home, "layer");
const RENUMBERED = "renumbered";
const HALF_MADE = ".new";
const isRenumbered = (layer: string) => basename(dirname(layer)) === RENUMBERED;
/** The directory that goes with the last who needs what is in it. */
export const homeOf = (layer: string): string => dirname(isRenumbered(layer) ? dirname(layer) : layer);

/**
 * Layers whose owners are numbered otherwise than when they were taken. An ordinary user's sandboxes with mounts have the user as
 * root, others the first subordinate id, and ids can't be mapped on mounts there. The copy lies beside the layer and goes with it.
 */
export interface RenumberedLayers {
  /** `asUser`: the layer that it is taken for has the user as root. */
  of(layer: string, options: { asUser: boolean; signal?: AbortSignal | undefined }): Promise<string>;
  /** Discards what an earlier engine was making. */
  sweep(home: string): Promise<void>;
  close(): Promise<void>;
}

export function createRenumberedLayers(options: {
  launcher: Launcher;
  discard(path: string): Promise<void>;
}): RenumberedLayers {
  const { launcher, discard } = options;
  const flights = createSingleFlight<string>();

  const make = async (layer: string, target: string, asUser: boolean, own: AbortSignal): Promise<string> => {
    if (await statOrUndefined(target)) return target;
    const home = homeOf(layer);
    const half = join(home, HALF_MADE);
    const shift = asUser ? -FIRST_SUBORDINATE : FIRST_SUBORDINATE;
    try {
      await mkdir(half, { mode: 0o700 });
      await withDiskGuard(home, own, (signal) => launcher.copy(layer, layerIn(half), { shift, signal }), {
        unbounded: true,
      });
      await rename(half, dirname(target));
    } finally {
      await discard(half);
    }
    return target;
  };

  return {
    of(layer, { asUser, signal }) {
      const home = homeOf(layer);
      const target = layerIn(isRenumbered(layer) ? home : join(home, RENUMBERED));
      return flights.run(target, (own) => make(layer, target, asUser, own), signal);
    },
    async sweep(home) {
      if ((await readdir(home)).includes(HALF_MADE)) await discard(join(home, HALF_MADE));
    },
    close: () => flights.close(),
  };
}
