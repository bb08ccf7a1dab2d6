import { createSocket } from "node:dgram";
import { once } from "node:events";
import { readFileSync } from "node:fs";
import { createServer } from "node:net";

/** Where ports begin that the kernel gives to whoever asks for any. */
function firstGiven(): number {
  try {
    return Number.parseInt(readFileSync("/proc/sys/net/ipv4/ip_local_port_range", "utf8"), 10);
  } catch {
    return 32_768;
  }
}

/**
 * A port of this machine that nobody has, and that the kernel gives to nobody by itself: whoever closes it finds it free
 * later, whatever other programs do meanwhile.
 */
export async function quietPort(): Promise<number> {
  const [from, to] = [10_000, firstGiven()];
  for (;;) {
    const port = from + Math.floor(Math.random() * (to - from));
    if ((await isFree(port, "::")) && (await isFree(port, "127.0.0.1"))) return port;
  }
}

/** For TCP and for UDP. */
async function isFree(port: number, host: string): Promise<boolean> {
  const server = createServer();
  const socket = createSocket(host.includes(":") ? "udp6" : "udp4");
  try {
    await Promise.all([
      once(server.listen(port, host), "listening"),
      once(socket.bind(port, host), "listening"),
    ]);
    return true;
  } catch (error) {
    // Where there is no IPv6, nobody has a port of it.
    return /^(EAFNOSUPPORT|EADDRNOTAVAIL)$/.test((error as NodeJS.ErrnoException).code ?? "");
  } finally {
    await Promise.all([
      new Promise((resolve) => server.close(resolve)),
      new Promise<void>((resolve) => {
        socket.close(resolve);
      }),
    ]);
  }
}
