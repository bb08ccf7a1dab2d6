// warren-seccomp: compiles a seccomp profile to BPF, because crun otherwise does that again at each start (19 ms).
// Reads lines on stdin and writes the program to stdout:
//   default ACTION
//   arch NAME                                      (libseccomp's names: x86_64, x86, x32, aarch64, arm…)
//   rule ACTION SYSCALL [INDEX OP VALUE VALUE2]…   (OP: NE LT LE EQ GE GT MASKED_EQ; for that one VALUE is the mask)
// ACTION is `allow` or `errno:N`. System calls that this libseccomp doesn't know are skipped; they get the default.
#include <errno.h>
#include <seccomp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { MOST_ARGS = 6, LINE_SIZE = 1024 };

static void die(const char *what, const char *detail, int error) {
  fprintf(stderr, "warren-seccomp: %s: %s%s%s\n", what, detail, error ? ": " : "", error ? strerror(error) : "");
  exit(1);
}

static uint32_t parse_action(const char *word) {
  if (word && !strcmp(word, "allow")) return SCMP_ACT_ALLOW;
  if (word && !strncmp(word, "errno:", 6)) {
    char *end;
    unsigned long n = strtoul(word + 6, &end, 10);
    if (!*end && n > 0 && n < 4096) return SCMP_ACT_ERRNO(n);
  }
  die("bad action", word ? word : "", 0);
  return 0;
}

static enum scmp_compare parse_op(const char *word) {
  static const char *const names[] = {"NE", "LT", "LE", "EQ", "GE", "GT", "MASKED_EQ"};
  static const enum scmp_compare ops[] = {SCMP_CMP_NE, SCMP_CMP_LT, SCMP_CMP_LE,       SCMP_CMP_EQ,
                                          SCMP_CMP_GE, SCMP_CMP_GT, SCMP_CMP_MASKED_EQ};
  for (size_t i = 0; word && i < sizeof ops / sizeof *ops; i++)
    if (!strcmp(word, names[i])) return ops[i];
  die("bad comparison", word ? word : "", 0);
  return SCMP_CMP_EQ;
}

static uint64_t parse_number(const char *word) {
  char *end;
  errno = 0;
  uint64_t n = word ? strtoull(word, &end, 10) : 0;
  if (!word || errno || *end || !*word) die("bad number", word ? word : "", 0);
  return n;
}

static void add_rule(scmp_filter_ctx filter, uint32_t default_action) {
  uint32_t action = parse_action(strtok(NULL, " \n"));
  const char *name = strtok(NULL, " \n");
  if (!name) die("rule without a system call", "", 0);
  struct scmp_arg_cmp args[MOST_ARGS];
  unsigned count = 0;
  for (const char *word; (word = strtok(NULL, " \n")); count++) {
    if (count == MOST_ARGS) die("too many arguments", name, 0);
    args[count].arg = (unsigned)parse_number(word);
    args[count].op = parse_op(strtok(NULL, " \n"));
    args[count].datum_a = parse_number(strtok(NULL, " \n"));
    args[count].datum_b = parse_number(strtok(NULL, " \n"));
  }
  int number = seccomp_syscall_resolve_name(name);
  if (number == __NR_SCMP_ERROR || action == default_action) return;
  int result = seccomp_rule_add_array(filter, action, number, count, args);
  // EDOM: a system call that one of the architectures doesn't have. EEXIST would be a contradiction between two rules.
  if (result < 0 && result != -EDOM) die("rule refused", name, -result);
}

int main(void) {
  scmp_filter_ctx filter = NULL;
  uint32_t default_action = 0;
  char line[LINE_SIZE];
  while (fgets(line, sizeof line, stdin)) {
    if (!strchr(line, '\n')) die("line too long", line, 0);
    const char *word = strtok(line, " \n");
    if (!word) continue;
    if (!strcmp(word, "default")) {
      default_action = parse_action(strtok(NULL, " \n"));
      filter = seccomp_init(default_action);
      if (!filter) die("seccomp_init", "", 0);
    } else if (!filter) {
      die("no default before", word, 0);
    } else if (!strcmp(word, "arch")) {
      const char *name = strtok(NULL, " \n");
      uint32_t arch = name ? seccomp_arch_resolve_name(name) : 0;
      if (!arch) die("unknown architecture", name ? name : "", 0);
      int result = seccomp_arch_add(filter, arch);
      if (result < 0 && result != -EEXIST) die("architecture refused", name, -result);
    } else if (!strcmp(word, "rule")) {
      add_rule(filter, default_action);
    } else {
      die("unknown word", word, 0);
    }
  }
  if (!filter) die("empty profile", "", 0);
  // A binary tree of system call numbers: about 9 comparisons per call instead of about 400.
  seccomp_attr_set(filter, SCMP_FLTATR_CTL_OPTIMIZE, 2);
  int result = seccomp_export_bpf(filter, 1);
  if (result < 0) die("seccomp_export_bpf", "", -result);
  seccomp_release(filter);
  return 0;
}
