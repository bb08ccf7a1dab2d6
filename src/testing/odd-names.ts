/** Names that break programs which join paths into shell lines, or think that names are text without newlines. */
export const oddNames = [
  "with space",
  "q'uo\"te",
  "semi;colon && echo $(id) `id`",
  "new\nline",
  "-rf",
  "…ünïcødé 😀",
  "back\\slash",
  "*",
  "per%41cent?a=b#c",
  "...",
  "a".repeat(255),
] as const;
