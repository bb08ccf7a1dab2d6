#include "front.h"

#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/// Becomes the CLI with these arguments. What can't be started is told as a shell would.
_Noreturn static void become_cli(char **arguments, int count) {
  char program[PATH_MAX];
  ssize_t length = readlink("/proc/self/exe", program, sizeof program - sizeof "main.js");
  char *slash = NULL;
  if (length > 0) {
    program[length] = '\0';
    slash = strrchr(program, '/');
  }
  char **argv = calloc((size_t)count + 3, sizeof *argv);
  if (slash == NULL || argv == NULL) {
    fputs("warren: /proc is needed to find the rest of the program\n", stderr);
    exit(125);
  }
  strcpy(slash + 1, "main.js");
  argv[0] = (char[]){"node"};
  argv[1] = program;
  for (int i = 0; i < count; i++) argv[2 + i] = arguments[i];
  execvp("node", argv);
  fprintf(stderr, "warren: node: %s\n", strerror(errno));
  exit(errno == ENOENT ? 127 : 126);
}

/// Has the CLI say what is to be said of how a command ended, and end with its code.
_Noreturn static void have_said(const struct request *r, const struct end *end) {
  char since[32];
  snprintf(since, sizeof since, "%lld", end->since_ms);
  char *argv[] = {
    (char[]){"exec-end"}, (char[]){"--since"}, since, (char *)r->id, end->frame != NULL ? end->frame : (char[]){""},
    (char[]){"--state-dir"}, (char *)r->state_dir,
  };
  become_cli(argv, r->state_dir == NULL ? 5 : 7);
}

int main(int argc, char **argv) {
  struct request request;
  if (argc < 2 || strcmp(argv[1], "exec") != 0 || !parse_request(argc, argv, &request)) become_cli(argv + 1, argc - 1);
  struct end end = run_session(&request);
  if (end.kind == END_UNTOUCHED) become_cli(argv + 1, argc - 1);
  if (end.kind == END_SAY) have_said(&request, &end);
  return end.code;
}
