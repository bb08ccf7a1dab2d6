import type { ProbeFinding } from "../../contracts/runtime.ts";
import { lastWords } from "../../lib/last-words.ts";
import { nativeProgram } from "../../lib/native.ts";
import { run } from "../../lib/run.ts";

/** Setting it up takes a millisecond. */
const TIMEOUT_MS = 10_000;

/**
 * Whom programs in a filtered sandbox ask for names: nobody needs to listen there, the guest answers what is sent anywhere. Every
 * name has an address for it, so no name may be tried with a suffix first: there is no list of them, and `ndots:0` has each name tried as
 * it is before any that a program brings along.
 */
export const CAPTURED_RESOLVER = { nameServer: "127.0.0.1", option: "ndots:0" } as const;

/** The same as /etc/resolv.conf. */
export const capturedResolverFile = `nameserver ${CAPTURED_RESOLVER.nameServer}\noptions ${CAPTURED_RESOLVER.option}\n`;

/** Whether guests on this machine's kernel can capture connections, tried in a network namespace that is gone afterwards. */
export interface NetworkCapture {
  works: boolean;
  /** What fails, in the guest's words. */
  why?: string;
}

export async function probeNetworkCapture(): Promise<NetworkCapture> {
  try {
    const { code, stderr } = await run(nativeProgram("warren-guest"), ["--check-capture"], {
      timeoutMs: TIMEOUT_MS,
    });
    return code === 0 ? { works: true } : { works: false, why: lastWords(stderr) };
  } catch (error) {
    return { works: false, why: error instanceof Error ? error.message : String(error) };
  }
}

/** What a runtime's probe says of it. */
export function captureFinding({ works, why }: NetworkCapture): ProbeFinding {
  if (works) {
    return { level: "ok", message: "filtered network captures programs that know no proxy" };
  }
  return {
    level: "warning",
    message: `filtered network is for programs that know a proxy only: the kernel can't capture others (${why})`,
    fix: "use a kernel with nf_tables, nft_tproxy and nft_socket: modprobe -a nft_tproxy nft_socket",
  };
}
