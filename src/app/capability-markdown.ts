import { bestCapabilities } from "../runtimes/capabilities.ts";
import { capabilityTable } from "./capability-table.ts";

/** What each runtime can do at best, as Markdown, for README.md. */
export function capabilityMarkdown(): string {
  const [header, ...lines] = capabilityTable(bestCapabilities);
  const row = (cells: readonly string[]) => `| ${cells.join(" | ")} |\n`;
  return [row(header), `|${"---|".repeat(header.length)}\n`, ...lines.map(row)].join("");
}
