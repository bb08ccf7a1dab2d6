// Container runtimes that are run from memory: see program.c.
#pragma once
#include <stdbool.h>

// In the serving process: from here on its workers run the program at `path` from memory. 0 or an errno.
int keep_program(const char *path);
// Whether `fd` is one of the programs' descriptors; the highest of them, or -1.
bool is_kept_program(int fd);
int highest_kept_program(void);
// Like execve(argv[0], argv, env), from memory where that program is kept and still the same.
void exec_program(char *const *argv, char *const *env);
