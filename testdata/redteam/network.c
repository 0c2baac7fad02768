/* The host's network, from a step with --network=none. */
#include "escape.h"
#include <arpa/inet.h>
#include <net/if.h>
#include <netinet/in.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/un.h>

static void interfaces(void) {
    struct if_nameindex *all = if_nameindex();
    for (struct if_nameindex *one = all; one && one->if_index; one++)
        if (strcmp(one->if_name, "lo") != 0) out("there is %s", one->if_name);
    held("only lo, if any");
}

static void loopback(void) {
    int fd = socket(AF_INET, SOCK_STREAM, 0);
    struct sockaddr_in to = {.sin_family = AF_INET, .sin_port = htons((uint16_t)host_port), .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    must_fail("connect to a port of the host's loopback", fd < 0 ? fd : connect(fd, (struct sockaddr *)&to, sizeof to));
}

static void abstract_socket(void) {
    int fd = socket(AF_UNIX, SOCK_STREAM, 0);
    struct sockaddr_un to = {.sun_family = AF_UNIX};
    snprintf(to.sun_path + 1, sizeof to.sun_path - 1, "%s", host_socket);
    socklen_t length = (socklen_t)(offsetof(struct sockaddr_un, sun_path) + 1 + strlen(host_socket));
    must_fail("connect to an abstract socket", fd < 0 ? fd : connect(fd, (struct sockaddr *)&to, length));
}

static void outward(void) {
    int fd = socket(AF_INET, SOCK_DGRAM, 0);
    struct sockaddr_in to = {.sin_family = AF_INET, .sin_port = htons(53), .sin_addr.s_addr = inet_addr("192.0.2.1")};
    must_fail("a datagram to another host", fd < 0 ? fd : sendto(fd, "x", 1, 0, (struct sockaddr *)&to, sizeof to));
}

/* A raw socket sees and makes packets of the interfaces that are there: of none but lo. */
static void packets(void) {
    int fd = socket(AF_PACKET, SOCK_RAW, htons(3 /* ETH_P_ALL */));
    if (fd < 0) {
        held("a packet socket: %s", strerror(errno));
        return;
    }
    struct ifreq request = {0};
    for (int index = 1; index < 16; index++) {
        request.ifr_ifindex = index;
        if (ioctl(fd, SIOCGIFNAME, &request) == 0 && strcmp(request.ifr_name, "lo") != 0) out("a packet socket on %s", request.ifr_name);
    }
    held("a packet socket on lo");
}

static void raw(void) {
    int fd = socket(AF_INET, SOCK_RAW, IPPROTO_ICMP);
    struct sockaddr_in to = {.sin_family = AF_INET, .sin_addr.s_addr = inet_addr("192.0.2.1")};
    must_fail("a raw packet to another host", fd < 0 ? fd : sendto(fd, "xxxxxxxx", 8, 0, (struct sockaddr *)&to, sizeof to));
}

const struct attempt NETWORK[] = {
    {"interfaces", interfaces},
    {"host-loopback", loopback},
    {"abstract-socket", abstract_socket},
    {"outward", outward},
    {"packet-socket", packets},
    {"raw-socket", raw},
    {0},
};
