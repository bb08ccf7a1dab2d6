// What redirect.h sends the product's calls to.
#pragma once
#include <dirent.h>
#include <poll.h>
#include <stdint.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <termios.h>

// kernel.c: the connection, the command and its streams
ssize_t fuzz_recv(int fd, void *to, size_t bytes, int flags);
ssize_t fuzz_send(int fd, const void *from, size_t bytes, int flags);
ssize_t fuzz_sendmsg(int fd, const struct msghdr *message, int flags);
ssize_t fuzz_read(int fd, void *to, size_t bytes);
ssize_t fuzz_write(int fd, const void *from, size_t bytes);
int fuzz_poll(struct pollfd *p, nfds_t count, int timeout_ms);
int fuzz_close(int fd);
int fuzz_pipe2(int fds[2], int flags);
int fuzz_ioctl(int fd, unsigned long what, ...);
int fuzz_fcntl(int fd, int what, ...);
int fuzz_fstat(int fd, struct stat *st);
int fuzz_tcgetattr(int fd, struct termios *t);
int fuzz_new_fd(void);
int fuzz_connect(int fd);
pid_t fuzz_waitpid(pid_t pid, int *status, int flags);
int fuzz_kill(pid_t pid, int signal);
int fuzz_execve(const char *path, char *const *argv, char *const *env);
int fuzz_sometimes(int error);
int fuzz_getsockopt(int fd, int level, int name, void *value, socklen_t *bytes);
ssize_t fuzz_getrandom(void *to, size_t bytes, unsigned flags);
int fuzz_inotify_add_watch(int fd, const char *path, uint32_t mask);

// box.c: files
long fuzz_syscall(long number, ...);
int fuzz_open(const char *path, int flags, ...);
int fuzz_openat(int dir, const char *path, int flags, ...);
DIR *fuzz_fdopendir(int fd);
int fuzz_closedir(DIR *dir);
void fuzz_box_changes(void);

// Between the two.
int box_close(int fd);
int fuzz_openat_in_box(const char *path);
void kernel_check_connection(void);
