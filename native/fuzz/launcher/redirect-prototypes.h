// What redirect.h sends the launcher's calls to.
#pragma once
#include <dirent.h>
#include <poll.h>
#include <stdio.h>
#include <sys/stat.h>
#include <sys/types.h>

int fuzz_new_fd(void);
int fuzz_dup(int fd);
int fuzz_pipe2(int fds[2]);
int fuzz_close(int fd);
int fuzz_fd_or_error(void);
int fuzz_sometimes(int error);
int fuzz_open(const char *path);
ssize_t fuzz_read(int fd, void *to, size_t bytes);
ssize_t fuzz_write(int fd, const void *from, size_t bytes);
int fuzz_poll(struct pollfd *p, nfds_t count, int timeout_ms);
long fuzz_syscall(long number, ...);
pid_t fuzz_waitpid(pid_t pid, int *status);
int fuzz_kill(pid_t pid, int number);
int fuzz_execve(const char *path, char *const *argv, char *const *env);
int fuzz_mount(const char *source, const char *target, const char *type, const void *options);
int fuzz_look_at_path(const char *path);
FILE *fuzz_fopen(const char *path);
ssize_t fuzz_readlink(const char *path, char *to, size_t bytes);
DIR *fuzz_fdopendir(int fd);
struct dirent *fuzz_readdir(void);

// Before each input, and after it.
void kernel_reset(void);
void kernel_end(void);
