import { pasta } from "./pasta.ts";
import { slirp4netns } from "./slirp4netns.ts";
import type { Uplink } from "./uplink.ts";

/** Best first: docs/decisions/0004-uplinks.md. */
export const uplinks = { slirp4netns, pasta } as const satisfies Record<string, Uplink>;
export type UplinkName = keyof typeof uplinks;
