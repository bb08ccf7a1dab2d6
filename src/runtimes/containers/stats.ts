import type { RuntimeStats } from "../../contracts/runtime.ts";
import { readAnswer, Stats } from "./answers.ts";
import { type ApiClient, engineFailure } from "./api-client.ts";

/** Above this a limit of memory is none: engines tell the machine's memory, or 2^63 rounded to pages. */
const NO_MEMORY_LIMIT = 2 ** 60;

/** What the engine says that a container uses. Numbers that it leaves out are 0. */
export async function readStats(client: ApiClient, path: string): Promise<RuntimeStats> {
  const answer = await client
    .json({ path, query: { stream: false, "one-shot": true } })
    .catch((error: unknown) => {
      throw engineFailure(error, "the sandbox's statistics can't be read", { 409: "sandbox_wrong_state" });
    });
  const {
    cpu_stats: cpu,
    memory_stats: memory,
    pids_stats: pids,
    networks,
    blkio_stats,
  } = readAnswer(Stats, answer);
  const sum = (values: (number | undefined)[]) =>
    values.reduce<number>((all, value) => all + (value ?? 0), 0);
  const io = (op: string) =>
    sum(
      (blkio_stats?.io_service_bytes_recursive ?? [])
        .filter((e) => e.op.toLowerCase() === op)
        .map((e) => e.value),
    );
  const cache = memory?.stats?.total_inactive_file ?? memory?.stats?.inactive_file ?? 0;
  const limit = memory?.limit ?? 0;
  return {
    cpuTotalNs: cpu?.cpu_usage?.total_usage ?? 0,
    memory_usage: Math.max(0, (memory?.usage ?? 0) - cache),
    memory_limit: limit > NO_MEMORY_LIMIT ? 0 : limit,
    pid_count: pids?.current ?? 0,
    network_rx: sum(Object.values(networks ?? {}).map((network) => network.rx_bytes)),
    network_tx: sum(Object.values(networks ?? {}).map((network) => network.tx_bytes)),
    disk_read: io("read"),
    disk_write: io("write"),
    oomKills: 0,
  };
}
