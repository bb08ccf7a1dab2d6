// Sockets of other kinds than a program without network needs, and privileged use of the ones it may have.
#include "probe.h"

#include <arpa/inet.h>
#include <linux/if.h>
#include <linux/netlink.h>
#include <linux/rtnetlink.h>
#include <sys/ioctl.h>
#include <sys/socket.h>

static long socket_of(long packed) {
  return socket((int)(packed >> 32), (int)(packed >> 16) & 0xffff, (int)(packed & 0xffff));
}
static long kind(long family, long type, long protocol) {
  return family << 32 | type << 16 | protocol;
}

static long netlink_set_link_down(void) {
  struct {
    struct nlmsghdr head;
    struct ifinfomsg info;
  } request = {.head = {.nlmsg_len = sizeof request, .nlmsg_type = RTM_NEWLINK, .nlmsg_flags = NLM_F_REQUEST | NLM_F_ACK},
               .info = {.ifi_index = 1, .ifi_change = IFF_UP}};
  struct {
    struct nlmsghdr head;
    struct nlmsgerr error;
    char rest[512];
  } reply = {0};
  int fd = socket(AF_NETLINK, SOCK_RAW, NETLINK_ROUTE);
  if (fd < 0 || send(fd, &request, sizeof request, 0) < 0 || recv(fd, &reply, sizeof reply, 0) < 0) return -1;
  errno = -reply.error.error;
  return reply.error.error == 0 ? 0 : -1;
}
static long ioctl_set_mtu(void) {
  struct ifreq request = {.ifr_name = "lo", .ifr_mtu = 1500};
  return ioctl(socket(AF_INET, SOCK_DGRAM, 0), SIOCSIFMTU, &request);
}
static long so_mark(void) {
  int mark = 1;
  return setsockopt(socket(AF_INET, SOCK_DGRAM, 0), SOL_SOCKET, SO_MARK, &mark, sizeof mark);
}
static long nftables_batch(void) {
  int fd = socket(AF_NETLINK, SOCK_RAW, NETLINK_NETFILTER);
  struct {
    struct nlmsghdr head;
    unsigned char rest[4];
  } request = {.head = {.nlmsg_len = sizeof request, .nlmsg_type = 10 << 8 | 1 /* NFT_MSG_GETTABLE */,
                        .nlmsg_flags = NLM_F_REQUEST | NLM_F_DUMP}};
  char reply[4096] = {0};
  if (fd < 0 || send(fd, &request, sizeof request, 0) < 0) return -1;
  ssize_t n = recv(fd, reply, sizeof reply, 0);
  struct nlmsghdr *head = (struct nlmsghdr *)reply;
  if (n < 0) return -1;
  if (head->nlmsg_type != NLMSG_ERROR) return 0;
  errno = -((struct nlmsgerr *)NLMSG_DATA(head))->error;
  return -1;
}

int main(void) {
  static const struct {
    const char *name;
    int family, type, protocol;
  } sockets[] = {
    {"AF_VSOCK", 40, SOCK_STREAM, 0},
    {"AF_PACKET", 17, SOCK_RAW, 0x0300},
    {"AF_PACKET datagram", 17, SOCK_DGRAM, 0},
    {"AF_ALG", 38, SOCK_SEQPACKET, 0},
    {"AF_NETLINK audit", 16, SOCK_RAW, 9},
    {"AF_KEY", 15, SOCK_RAW, 2},
    {"AF_BLUETOOTH", 31, SOCK_RAW, 1},
    {"AF_CAN", 29, SOCK_RAW, 1},
    {"AF_TIPC", 30, SOCK_STREAM, 0},
    {"AF_RDS", 21, SOCK_SEQPACKET, 0},
    {"AF_IUCV", 32, SOCK_STREAM, 0},
    {"AF_KCM", 41, SOCK_DGRAM, 0},
    {"AF_SMC", 43, SOCK_STREAM, 0},
    {"AF_XDP", 44, SOCK_RAW, 0},
    {"AF_APPLETALK", 5, SOCK_DGRAM, 0},
    {"AF_X25", 9, SOCK_SEQPACKET, 0},
    {"AF_RXRPC", 33, SOCK_DGRAM, 2},
    {"AF_QIPCRTR", 42, SOCK_DGRAM, 0},
    {"AF_INET raw", AF_INET, SOCK_RAW, 1},
    {"AF_INET raw, any protocol", AF_INET, SOCK_RAW, 255},
    {"AF_INET6 raw", AF_INET6, SOCK_RAW, 58},
  };
  for (size_t i = 0; i < sizeof sockets / sizeof *sockets; i++) {
    attempt_with(sockets[i].name, socket_of, kind(sockets[i].family, sockets[i].type, sockets[i].protocol));
  }
  ATTEMPT(netlink_set_link_down);
  ATTEMPT(ioctl_set_mtu);
  ATTEMPT(so_mark);
  ATTEMPT(nftables_batch);
  return 0;
}
