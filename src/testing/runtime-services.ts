import { once } from "node:events";
import { expect } from "vitest";
import { runInside } from "./guest-tools.ts";
import type { RuntimeContext } from "./runtime-fixture.ts";

/** Says `hello` to a socket, `$ARGV[0]`, or a port, and prints the answer, or `none`. */
const talk = `my $at = $ARGV[0];
  my $s = $at =~ m{^/} ? IO::Socket::UNIX->new(Peer => $at) : IO::Socket::INET->new(PeerAddr => "127.0.0.1:$at");
  $s or do { print "none"; exit }; print $s "hello"; $s->flush; sysread $s, my $a, 99; print $a`;

/** Services of the host, as far as they are the runtime's: what they are is above. */
export function testServices({ test, fixture, unless }: RuntimeContext): void {
  test("brings programs to services of the host, at a socket and a port, in every network", async () => {
    const { runtime, box } = fixture();
    const readonlyRoot = unless("readonlyRoot", "tmpfs") === undefined;
    // With a read-only root the engine makes /run one that can be written.
    const run = { path: "/run", sizeBytes: 1 << 20, readonly: false, exec: false, mode: 0o755 };
    for (const network of ["none", "filtered"] as const) {
      if (!runtime.capabilities.networkModes.includes(network)) continue;
      const { guest } = await box({ network, ...(readonlyRoot ? { readonlyRoot, tmpfs: [run] } : {}) });
      expect(await guest.hello()).toMatchObject({ hasServices: true });
      const say = async (at: string) =>
        (await runInside(guest, ["perl", "-MIO::Socket::UNIX", "-MIO::Socket::INET", "-e", talk, at])).stdout;
      expect([await say("/run/warren/one.sock"), await say("3131")]).toEqual(["none", "none"]);
      await guest.listen(1, { path: "/run/warren/one.sock" });
      await guest.listen(2, { port: 3131 });
      for (const [service, at] of [
        [1, "/run/warren/one.sock"],
        [2, "3131"],
      ] as const) {
        const serve = async () => {
          const program = await guest.acceptService(service, AbortSignal.timeout(20_000));
          program.end(`${(await once(program, "data"))[0]} from ${service}`);
        };
        const [said] = await Promise.all([say(at), serve()]);
        expect(said).toBe(`hello from ${service}`);
      }
    }
  });
}
