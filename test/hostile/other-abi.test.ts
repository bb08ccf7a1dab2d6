import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { runBare } from "./support/bare.ts";
import { type Lab, openLab, outcomesOf } from "./support/lab.ts";

/** SIGSYS from the filter; SIGSEGV from a kernel without 32-bit calls, ENOSYS from one without x32. */
const refusals = ["signal31", "signal11", "E38"];

/** As in kernel-surface.test.ts: what each gives in a container without our guards. */
const attempts: Record<string, string> = {
  int80_getpid: "ok",
  int80_unshare_user: "ok",
  int80_unshare_mnt: "ok",
  int80_clone_user: "ok",
  int80_keyctl: "ok",
  int80_reboot: "E22",
  int80_userfaultfd: "ok",
  int80_swapon: "E14",
  int80_acct: "E14",
  int80_socket_vsock: "ok",
  int80_socket_packet: "ok",
  int80_socketcall: "E14",
  int80_io_uring_setup: "E14",
  int80_bpf: "E14",
  int80_ptrace_init: "ok",
  int80_vm86old: "E38",
  x32_unshare_user: "ok",
  x32_keyctl: "ok",
  x32_userfaultfd: "ok",
};

// Other architectures have one door only.
const oneDoor = process.arch === "x64" ? "" : " [not possible here: this architecture has no other]";
describe.skipIf(oneDoor !== "")(`calls by another ABI than the processor's own${oneDoor}`, () => {
  let lab: Lab;
  let inside: Map<string, string>;
  let bare: Map<string, string>;

  beforeAll(async () => {
    lab = await openLab({ programs: ["abi"] });
    inside = outcomesOf(await lab.attack(await lab.sandbox(), "abi"));
    bare = outcomesOf(await runBare(lab.dir, lab.program("abi")));
  });
  afterAll(() => lab?.[Symbol.asyncDispose]());

  it.each(Object.entries(attempts))("%s is refused, and works without the guard", (name, outcome) => {
    expect(refusals).toContain(inside.get(name));
    expect([outcome, "E38", "E97", "signal11"]).toContain(bare.get(name));
  });
});
