/**
 * What carries the packets of sandboxes with open network: a network stack in user space, one process for each. The launcher runs
 * it for a sandbox, with neither capabilities nor files of the host, and looks after it (native/launcher/uplink.c).
 */
export interface Uplink {
  readonly name: string;
  /** Why it can't be used here, as far as can be seen without trying. */
  missing(host: UplinkHost): MissingUplink | undefined;
  /** Why it is taken only when it is asked for by name. */
  unfit?(): Promise<MissingUplink | undefined>;
  /** To be run now: it may depend on the networks that this machine is in. */
  command(): UplinkCommand;
}

export interface UplinkHost {
  isRootless: boolean;
}

export interface UplinkCommand {
  /**
   * The sandbox's network namespace is its stdin. It is to say a byte when the network is there, at descriptor 3 unless `readyAt`
   * names stdout, and to end when descriptor 4 hangs up, or else with its parent.
   */
  argv: readonly string[];
  readyAt?: "stdout";
}

export interface MissingUplink {
  why: string;
  fix?: string;
}
