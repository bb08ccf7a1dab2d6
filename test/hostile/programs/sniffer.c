// A capture of all interfaces of its network namespace. Arguments are byte strings in hex: the first ends it, and for each packet
// that holds one of the others it prints the interface, that string's number and the packet. Prints `ready` first, `lost N` last.
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <linux/filter.h>
#include <linux/if_ether.h>
#include <linux/if_packet.h>
#include <net/if.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

// From the network header on: all but TCP, of which only what goes to the addresses that the attacks use (203.0.113.0/24 and
// 2001:db8::/32). Other TCP of this host may be too much to look at.
static struct sock_filter filter[] = {
  BPF_STMT(BPF_LD | BPF_B | BPF_ABS, 0),
  BPF_STMT(BPF_ALU | BPF_AND | BPF_K, 0xf0),
  BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, 0x40, 0, 5),
  BPF_STMT(BPF_LD | BPF_B | BPF_ABS, 9),
  BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, 6, 0, 8),
  BPF_STMT(BPF_LD | BPF_W | BPF_ABS, 16),
  BPF_STMT(BPF_ALU | BPF_AND | BPF_K, 0xffffff00),
  BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, 0xcb007100, 5, 6),
  BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, 0x60, 0, 4),
  BPF_STMT(BPF_LD | BPF_B | BPF_ABS, 6),
  BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, 6, 0, 2),
  BPF_STMT(BPF_LD | BPF_W | BPF_ABS, 24),
  BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, 0x20010db8, 0, 1),
  BPF_STMT(BPF_RET | BPF_K, 0xffff),
  BPF_STMT(BPF_RET | BPF_K, 0),
};

static size_t from_hex(const char *text, unsigned char *bytes) {
  size_t n = 0;
  for (unsigned byte; sscanf(text, "%2x", &byte) == 1; text += 2) bytes[n++] = (unsigned char)byte;
  return n;
}

int main(int argc, char **argv) {
  static unsigned char needles[32][256], packet[65536];
  size_t lengths[32];
  if (argc < 2 || argc > 33) return 2;
  for (int i = 1; i < argc; i++) lengths[i - 1] = from_hex(argv[i], needles[i - 1]);
  int fd = socket(AF_PACKET, SOCK_DGRAM, 0), room = 64 << 20;
  struct sock_fprog program = {sizeof filter / sizeof *filter, filter};
  struct sockaddr_ll all = {.sll_family = AF_PACKET, .sll_protocol = htons(ETH_P_ALL)};
  if (fd < 0 || setsockopt(fd, SOL_SOCKET, SO_ATTACH_FILTER, &program, sizeof program) != 0 ||
      setsockopt(fd, SOL_SOCKET, SO_RCVBUFFORCE, &room, sizeof room) != 0 || bind(fd, (struct sockaddr *)&all, sizeof all) != 0) {
    perror("sniffer");
    return 1;
  }
  puts("ready");
  fflush(stdout);
  for (;;) {
    struct sockaddr_ll from;
    socklen_t size = sizeof from;
    ssize_t n = recvfrom(fd, packet, sizeof packet, 0, (struct sockaddr *)&from, &size);
    if (n < 0) continue;
    if (memmem(packet, (size_t)n, needles[0], lengths[0]) != NULL) break;
    for (int i = 1; i < argc - 1; i++) {
      if (memmem(packet, (size_t)n, needles[i], lengths[i]) == NULL) continue;
      char name[IF_NAMESIZE] = "?";
      if_indextoname((unsigned)from.sll_ifindex, name);
      printf("%s %d ", name, i);
      for (ssize_t k = 0; k < n && k < 400; k++) printf("%02x", packet[k]);
      puts("");
      break;
    }
  }
  struct tpacket_stats stats = {0};
  socklen_t size = sizeof stats;
  getsockopt(fd, SOL_PACKET, PACKET_STATISTICS, &stats, &size);
  printf("lost %u\n", stats.tp_drops);
  return 0;
}
