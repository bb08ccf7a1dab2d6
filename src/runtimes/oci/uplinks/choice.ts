import { WarrenError } from "../../../contracts/errors.ts";
import type { ProbeFinding } from "../../../contracts/runtime.ts";
import { openFinding } from "../../common/open-network.ts";
import type { MissingUplink, Uplink } from "./uplink.ts";
import { type UplinkName, uplinks } from "./uplinks.ts";

export interface UplinkChoice {
  /** Why there is none here, as far as is known. */
  missing(): MissingUplink | undefined;
  /** The first that works, which is tried unless it has worked before. Throws `unsupported`. */
  get(): Promise<Uplink>;
  /** Tries again, and tells which it is and why others are not. */
  findings(): Promise<ProbeFinding[]>;
  /** Resolves once no trial is under way. */
  idle(): Promise<void>;
}

export interface UplinkChoiceOptions {
  /** The only one that may be used. */
  wanted: UplinkName | undefined;
  isRootless: boolean;
  /** Starts a sandbox with it, and throws when that has no network. */
  attempt(uplink: Uplink): Promise<void>;
}

interface Trial {
  uplink: Uplink;
  missing?: MissingUplink;
}

/** What open network needs of a kernel, which most have. */
const KERNEL_FIX =
  "use a kernel with CONFIG_TUN, CONFIG_NF_TABLES_INET, CONFIG_NFT_CT, CONFIG_NFT_CONNLIMIT and CONFIG_NFT_REJECT; see docs/network.md";

export function createUplinkChoice(options: UplinkChoiceOptions): UplinkChoice {
  const { wanted, isRootless, attempt } = options;
  const candidates: readonly Uplink[] = wanted ? [uplinks[wanted]] : Object.values(uplinks);

  const tryAll = async (): Promise<Trial[]> => {
    const done: Trial[] = [];
    for (const uplink of candidates) {
      const missing =
        uplink.missing({ isRootless }) ??
        (wanted ? undefined : await uplink.unfit?.()) ??
        (await failureOf(uplink.name, () => attempt(uplink)));
      done.push({ uplink, ...(missing ? { missing } : {}) });
      if (!missing) break;
    }
    return done;
  };

  let trials: Promise<Trial[]> | undefined;
  /** What the last findings were. */
  let failed: MissingUplink | undefined;
  const chosen = async (again = false): Promise<Trial[]> => {
    const current = again ? (trials ?? Promise.resolve()).then(tryAll, tryAll) : (trials ?? tryAll());
    trials = current;
    const done = await current;
    // What is mended meanwhile works without a new engine.
    if (!workingOf(done) && trials === current) trials = undefined;
    return done;
  };

  return {
    missing() {
      const absent = candidates.map((uplink) => ({ uplink, missing: uplink.missing({ isRootless }) }));
      return absent.every(({ missing }) => missing) ? reasonOf(absent) : failed;
    },
    async get() {
      let done = await chosen();
      // It may have been taken away since.
      if (workingOf(done)?.missing({ isRootless })) done = await chosen(true);
      const uplink = workingOf(done);
      if (uplink) return uplink;
      const { why, fix } = reasonOf(done);
      throw new WarrenError("unsupported", `there is no network open here: ${why}`, {
        ...(fix === undefined ? {} : { hint: fix }),
      });
    },
    async findings() {
      const done = await chosen(true);
      const uplink = workingOf(done);
      failed = uplink ? undefined : reasonOf(done);
      if (failed) return [openFinding({ networkMissing: { open: failed } })];
      const passedOver = done.flatMap(({ missing }) => (missing ? [missing.why] : []));
      const why = passedOver.length > 0 ? ` (${passedOver.join("; ")})` : "";
      const ok: ProbeFinding = {
        level: "ok",
        message: `open network works by ${uplink?.name}${why}, with internal addresses held back`,
      };
      return [ok];
    },
    async idle() {
      await trials?.catch(() => {});
    },
  };
}

const workingOf = (trials: readonly Trial[]): Uplink | undefined =>
  trials.find(({ missing }) => !missing)?.uplink;

/** One remedy is enough: that of the best one. */
function reasonOf(trials: readonly { missing?: MissingUplink | undefined }[]): MissingUplink {
  const found = trials.flatMap(({ missing }) => missing ?? []);
  const fix = found.find((one) => one.fix !== undefined)?.fix;
  return {
    why: [...new Set(found.map(({ why }) => why))].join("; "),
    ...(fix === undefined ? {} : { fix }),
  };
}

async function failureOf(name: string, attempt: () => Promise<void>): Promise<MissingUplink | undefined> {
  try {
    await attempt();
    return undefined;
  } catch (error) {
    return {
      why: `${name}: a trial failed: ${error instanceof Error ? error.message : error}`,
      fix: KERNEL_FIX,
    };
  }
}
