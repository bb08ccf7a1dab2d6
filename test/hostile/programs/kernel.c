// Calls that reach into the kernel itself, past any namespace.
#include "probe.h"

#include <linux/bpf.h>
#include <linux/io_uring.h>
#include <linux/perf_event.h>
#include <sys/time.h>
#include <time.h>
#if defined __x86_64__
#include <sys/io.h>
#endif

static long keyctl_session(void) {
  return syscall(SYS_keyctl, 0 /* GET_KEYRING_ID */, -2 /* process keyring */, 1);
}
static long do_add_key(void) {
  return syscall(SYS_add_key, "user", "warren-hostile", "x", 1, -2);
}
static long do_request_key(void) {
  // Without a guard: ENOKEY, since there is no such key.
  return syscall(SYS_request_key, "user", "warren-hostile-absent", NULL, -2);
}
static long bpf_map_create(void) {
  union bpf_attr attr = {0};
  attr.map_type = BPF_MAP_TYPE_ARRAY;
  attr.key_size = attr.value_size = 4;
  attr.max_entries = 1;
  return syscall(SYS_bpf, BPF_MAP_CREATE, &attr, sizeof attr);
}
static long do_perf_event_open(void) {
  struct perf_event_attr attr = {0};
  attr.type = PERF_TYPE_SOFTWARE;
  attr.size = sizeof attr;
  attr.config = PERF_COUNT_SW_CPU_CLOCK;
  return syscall(SYS_perf_event_open, &attr, 0, -1, -1, 0);
}
static long do_userfaultfd(void) {
  return syscall(SYS_userfaultfd, 0);
}
static long io_uring_setup(void) {
  struct io_uring_params params = {0};
  return syscall(SYS_io_uring_setup, 4, &params);
}
static long io_uring_enter(void) {
  return syscall(SYS_io_uring_enter, -1, 0, 0, 0, NULL, 0);
}
static long io_uring_register(void) {
  // Of what is no ring: from Linux 6.13 on, -1 stands for none.
  return syscall(SYS_io_uring_register, STDIN_FILENO, 0, NULL, 0);
}
static long do_kexec_load(void) {
  return syscall(SYS_kexec_load, 0UL, 1000UL, NULL, 0x00ffff00UL);
}
static long kexec_file_load(void) {
  return syscall(SYS_kexec_file_load, -1, -1, 0UL, NULL, 0x00ffff00UL);
}
static long do_init_module(void) {
  return syscall(SYS_init_module, "", 0UL, "");
}
static long do_finit_module(void) {
  return syscall(SYS_finit_module, -1, "", 0);
}
static long do_delete_module(void) {
  return syscall(SYS_delete_module, "warren_hostile_absent", O_NONBLOCK);
}
static long do_open_by_handle_at(void) {
  struct {
    struct file_handle handle;
    unsigned char bytes[128];
  } h = {.handle.handle_bytes = sizeof h.bytes};
  int mount_id, dir = open("/", O_RDONLY | O_DIRECTORY);
  // The classic "shocker" needs no valid handle to start with: an inode number is guessed.
  if (syscall(SYS_name_to_handle_at, AT_FDCWD, "/", &h, &mount_id, 0) < 0) {
    h.handle.handle_bytes = 8;
    h.handle.handle_type = 1;
    memcpy(h.handle.f_handle, "\2\0\0\0\0\0\0\0", 8);
  }
  return syscall(SYS_open_by_handle_at, dir, &h, O_RDONLY);
}
static long reboot_with_wrong_magic(void) {
  return syscall(SYS_reboot, 1, 2, 0x01234567, NULL);
}
static long do_swapon(void) {
  return syscall(SYS_swapon, "/warren-hostile-absent", 0);
}
static long do_swapoff(void) {
  return syscall(SYS_swapoff, "/warren-hostile-absent");
}
static long settimeofday_with_wrong_zone(void) {
  struct timezone zone = {.tz_minuteswest = 1000000};
  return syscall(SYS_settimeofday, NULL, &zone);
}
static long clock_settime_of_fixed_clock(void) {
  struct timespec t = {1, 0};
  return syscall(SYS_clock_settime, CLOCK_MONOTONIC, &t);
}
static long personality_of(long value) {
  return syscall(SYS_personality, value);
}
static long do_quotactl(void) {
  return syscall(SYS_quotactl, 0x800005 << 8, "/warren-hostile-absent", 0, NULL);
}
static long do_acct(void) {
  return syscall(SYS_acct, "/warren-hostile-absent");
}
static long do_fanotify_init(void) {
  return syscall(SYS_fanotify_init, 4 /* FAN_CLASS_CONTENT */, O_RDONLY);
}
static long fanotify_init_unprivileged(void) {
  return syscall(SYS_fanotify_init, 0x200 /* FAN_REPORT_FID */, O_RDONLY);
}
static long syslog_size(void) {
  return syscall(SYS_syslog, 10, NULL, 0);
}
static long syslog_read_all(void) {
  char text[64];
  return syscall(SYS_syslog, 3, text, (int)sizeof text);
}
static long do_sethostname(void) {
  return syscall(SYS_sethostname, "hostile", 7);
}
static long do_setdomainname(void) {
  return syscall(SYS_setdomainname, "hostile", 7);
}
static long do_vhangup(void) {
  // Without a terminal this does nothing but check.
  setsid();
  return syscall(SYS_vhangup);
}
static long nice_below_zero(void) {
  return syscall(SYS_setpriority, 0, 0, -20);
}
static long realtime_scheduler(void) {
  struct sched_param param = {.sched_priority = 1};
  return syscall(SYS_sched_setscheduler, 0, SCHED_FIFO, &param);
}
#if defined __x86_64__
static long do_iopl(void) {
  return syscall(SYS_iopl, 3);
}
static long do_ioperm(void) {
  return syscall(SYS_ioperm, 0x80, 1, 1);
}
static long nfsservctl(void) {
  return syscall(180, 0, NULL, NULL);
}
static long lookup_dcookie(void) {
  char text[64];
  return syscall(SYS_lookup_dcookie, 1UL, text, sizeof text);
}
#endif

int main(void) {
  ATTEMPT(keyctl_session);
  ATTEMPT(do_add_key);
  ATTEMPT(do_request_key);
  ATTEMPT(bpf_map_create);
  ATTEMPT(do_perf_event_open);
  ATTEMPT(do_userfaultfd);
  ATTEMPT(io_uring_setup);
  ATTEMPT(io_uring_enter);
  ATTEMPT(io_uring_register);
  ATTEMPT(do_kexec_load);
  ATTEMPT(kexec_file_load);
  ATTEMPT(do_init_module);
  ATTEMPT(do_finit_module);
  ATTEMPT(do_delete_module);
  ATTEMPT(do_open_by_handle_at);
  ATTEMPT(reboot_with_wrong_magic);
  ATTEMPT(do_swapon);
  ATTEMPT(do_swapoff);
  ATTEMPT(settimeofday_with_wrong_zone);
  ATTEMPT(clock_settime_of_fixed_clock);
  attempt_with("personality READ_IMPLIES_EXEC", personality_of, 0x0400000);
  attempt_with("personality ADDR_NO_RANDOMIZE", personality_of, 0x0040000);
  attempt_with("personality MMAP_PAGE_ZERO", personality_of, 0x0100000);
  attempt_with("personality UNAME26 with more", personality_of, 0x0020000 | 0x0040000);
  ATTEMPT(do_quotactl);
  ATTEMPT(do_acct);
  ATTEMPT(do_fanotify_init);
  ATTEMPT(fanotify_init_unprivileged);
  ATTEMPT(syslog_size);
  ATTEMPT(syslog_read_all);
  ATTEMPT(do_sethostname);
  ATTEMPT(do_setdomainname);
  ATTEMPT(do_vhangup);
  ATTEMPT(nice_below_zero);
  ATTEMPT(realtime_scheduler);
#if defined __x86_64__
  ATTEMPT(do_iopl);
  ATTEMPT(do_ioperm);
  ATTEMPT(nfsservctl);
  ATTEMPT(lookup_dcookie);
#endif
  return 0;
}
