import { createHash, randomBytes } from "node:crypto";
import { chmod, readFile, rename, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { EGRESS_CAPTURE_PORT, EGRESS_PROXY_PORT } from "../../contracts/constants.ts";
import { WarrenError } from "../../contracts/errors.ts";
import type { RuntimeSpec } from "../../contracts/runtime.ts";
import { isGone, makeDir, statOrUndefined } from "../../lib/files.ts";
import { nativeProgram } from "../../lib/native.ts";

/**
 * Docker's default set without NET_RAW (spoofed packets), MKNOD (no use in a user namespace), AUDIT_WRITE. All hold only in
 * the sandbox's own user namespace. docs/runtimes/oci.md says what each is for.
 */
export const capabilities: readonly string[] = [
  "CAP_CHOWN",
  "CAP_DAC_OVERRIDE",
  "CAP_FOWNER",
  "CAP_FSETID",
  "CAP_KILL",
  "CAP_NET_BIND_SERVICE",
  "CAP_SETFCAP",
  "CAP_SETGID",
  "CAP_SETPCAP",
  "CAP_SETUID",
  "CAP_SYS_CHROOT",
];

/**
 * What the guest is started with: also CAP_NET_ADMIN where it makes rules of the sandbox's network, to capture connections or to hold
 * back internal addresses (`open`). It gives that up before anything else runs.
 */
export function startCapabilities(
  spec: Pick<RuntimeSpec, "network" | "isolation">,
  lasting: readonly string[] = capabilities,
): readonly string[] {
  return captures(spec) || spec.network === "open" ? [...lasting, "CAP_NET_ADMIN"] : lasting;
}

/** gVisor's kernel has neither nf_tables nor sockets that take foreign addresses. */
function captures({ network, isolation }: Pick<RuntimeSpec, "network" | "isolation">): boolean {
  return network === "filtered" && isolation === "container";
}

/** Where the guest program is mounted inside. */
export const GUEST_DIR = "/.warren";
export const GUEST_PROGRAM = `${GUEST_DIR}/guest`;

/** `connections` tells the guest where they come from. */
export function guestArgs(spec: RuntimeSpec, connections: readonly string[]): string[] {
  const args = [GUEST_PROGRAM, ...connections, ...proxyArgs(spec)];
  if (!spec.cmd) return args;
  args.push("--main-cwd", spec.workdir, ...mainAfterArgs(spec));
  if (spec.user !== undefined && spec.user !== "") args.push("--main-user", spec.user);
  return [...args, "--", ...spec.cmd];
}

/** What the main command waits for. */
export function mainAfterArgs({ mainAfter }: Pick<RuntimeSpec, "mainAfter">): string[] {
  return mainAfter === undefined ? [] : ["--main-after", mainAfter];
}

/**
 * Filtered network is a sandbox without one, in which the guest listens for those who want out, and captures those who know of no
 * proxy.
 */
export function proxyArgs(spec: Pick<RuntimeSpec, "network" | "isolation">): string[] {
  if (spec.network !== "filtered") return [];
  const proxy = ["--proxy-port", String(EGRESS_PROXY_PORT)];
  return captures(spec) ? [...proxy, "--capture-port", String(EGRESS_CAPTURE_PORT)] : proxy;
}

/**
 * The guest program.
 * @throws WarrenError `runtime_unavailable` when it is not built
 */
export async function readGuest(): Promise<Buffer> {
  return await readFile(nativeProgram("warren-guest")).catch((cause: unknown) => {
    if (!isGone(cause)) throw cause;
    throw new WarrenError("runtime_unavailable", "the guest program is not built", {
      hint: "run `make -C native`",
      cause,
    });
  });
}

/**
 * A directory in `dir` that holds nothing but the guest program, as `guest`. It is a copy, so that a new build or another
 * checkout doesn't change or remove the file under running sandboxes.
 * @throws WarrenError `runtime_unavailable` when the guest is not built
 */
export async function copyGuest(dir: string, onCopied: () => void = () => {}): Promise<string> {
  const bytes = await readGuest();
  const guestDir = join(dir, `guest-${createHash("sha256").update(bytes).digest("hex").slice(0, 24)}`);
  if (!(await statOrUndefined(join(guestDir, "guest")))) {
    await makeDir(guestDir, 0o755).catch(ignoreExisting);
    const temporary = join(dir, `.guest-${randomBytes(6).toString("hex")}`);
    await writeFile(temporary, bytes);
    await chmod(temporary, 0o555);
    onCopied();
    await rename(temporary, join(guestDir, "guest"));
  }
  return guestDir;
}

function ignoreExisting(error: NodeJS.ErrnoException): void {
  if (error.code !== "EEXIST") throw error;
}
