/*
 * The floor: the least that a program has to do to put QEMU on a bridge. Static, no checks of the host, no options, no
 * addresses that last, nothing to undo: /dev/net/tun, one netlink send, its answer, exec. What `make bench` measures
 * beside it can come near it and not get below.
 *
 *     floor exec PROGRAM                    nothing but exec
 *     floor join BRIDGE PROGRAM             a TAP on a bridge that is there
 *     floor make BRIDGE UPLINK PROGRAM      the bridge, the uplink and the TAP
 *     floor ask HELPER BRIDGE PROGRAM       the TAP from a helper, as QEMU's `-netdev bridge` calls it
 *
 * PROGRAM gets `-netdev tap,id=n,fd=3`, as QEMU would. Under any other words this program is what is executed in QEMU's
 * place: it says that it is there with one byte on its standard output, and stays until its standard input ends.
 */
#include <errno.h>
#include <fcntl.h>
#include <linux/if_link.h>
#include <linux/if_tun.h>
#include <linux/netlink.h>
#include <linux/rtnetlink.h>
#include <net/if.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

static char message[4096];
static size_t length;

static int fail(const char *what) {
    dprintf(2, "floor: %s: %s\n", what, strerror(errno));
    return 1;
}

static struct nlmsghdr *begin(int type, int flags, int index, unsigned up) {
    struct nlmsghdr *header = (void *)(message + length);
    struct ifinfomsg *link = NLMSG_DATA(header);
    header->nlmsg_len = NLMSG_LENGTH(sizeof *link);
    header->nlmsg_type = type;
    header->nlmsg_flags = NLM_F_REQUEST | flags;
    link->ifi_index = index;
    link->ifi_flags = link->ifi_change = up;
    return header;
}

static struct rtattr *add(struct nlmsghdr *header, int type, const void *value, size_t size) {
    struct rtattr *attribute = (void *)((char *)header + NLMSG_ALIGN(header->nlmsg_len));
    attribute->rta_type = type;
    attribute->rta_len = RTA_LENGTH(size);
    if (size) memcpy(RTA_DATA(attribute), value, size);
    header->nlmsg_len = NLMSG_ALIGN(header->nlmsg_len) + RTA_ALIGN(attribute->rta_len);
    return attribute;
}

static void end(struct nlmsghdr *header) { length += NLMSG_ALIGN(header->nlmsg_len); }

/* Makes a link, named or of that index, a port of a bridge, and sets it up. */
static void join(const char *name, int index, int bridge, int flags) {
    struct nlmsghdr *header = begin(RTM_SETLINK, flags, index, IFF_UP);
    if (name) add(header, IFLA_IFNAME, name, strlen(name) + 1);
    add(header, IFLA_MASTER, &bridge, sizeof bridge);
    end(header);
}

/* A TAP's descriptor from a helper, which ends before it is used. */
static int ask(const char *helper, const char *bridge) {
    int pair[2], status, device = -1;
    char byte, fd[16], br[IFNAMSIZ + 8], space[CMSG_SPACE(sizeof device)];
    if (socketpair(AF_UNIX, SOCK_STREAM, 0, pair)) return -1;
    pid_t child = fork();
    if (!child) {
        close(pair[0]);
        snprintf(fd, sizeof fd, "--fd=%d", pair[1]);
        snprintf(br, sizeof br, "--br=%s", bridge);
        execl(helper, helper, "--use-vnet", fd, br, (char *)0);
        _exit(1);
    }
    close(pair[1]);
    struct iovec part = {&byte, 1};
    struct msghdr message = {.msg_iov = &part, .msg_iovlen = 1, .msg_control = space, .msg_controllen = sizeof space};
    ssize_t got = recvmsg(pair[0], &message, 0);
    struct cmsghdr *control = CMSG_FIRSTHDR(&message);
    if (got == 1 && control && control->cmsg_type == SCM_RIGHTS) memcpy(&device, CMSG_DATA(control), sizeof device);
    close(pair[0]);
    return waitpid(child, &status, 0) == child && !status ? device : -1;
}

static int become(const char *program, int device) {
    char netdev[32];
    snprintf(netdev, sizeof netdev, "tap,id=n,fd=%d", device);
    execl(program, program, "-netdev", netdev, (char *)0);
    return fail(program);
}

int main(int count, char **words) {
    char tap[IFNAMSIZ];
    int bridge = 0, made = 0x3fff0000;
    if (count == 3 && !strcmp(words[1], "exec")) {
        execl(words[2], words[2], (char *)0);
        return fail(words[2]);
    }
    if (count == 5 && !strcmp(words[1], "ask")) {
        int given = ask(words[2], words[3]);
        return given < 0 ? fail(words[2]) : become(words[4], given);
    }
    int joins = count == 4 && !strcmp(words[1], "join"), makes = count == 5 && !strcmp(words[1], "make");
    if (!joins && !makes) {
        char byte;
        if (write(1, "!", 1) != 1) return 1;
        while (read(0, &byte, 1) > 0) {}
        return 0;
    }
    int device = open("/dev/net/tun", O_RDWR);
    struct ifreq request = {.ifr_flags = IFF_TAP | IFF_NO_PI | IFF_VNET_HDR};
    strcpy(request.ifr_name, "tap%d");
    if (device < 0 || ioctl(device, TUNSETIFF, &request)) return fail("/dev/net/tun");
    strcpy(tap, request.ifr_name);

    int kernel = socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, NETLINK_ROUTE);
    if (joins) {
        struct ifreq asked = {0};
        strncpy(asked.ifr_name, words[2], IFNAMSIZ - 1);
        if (ioctl(kernel, SIOCGIFINDEX, &asked)) return fail(words[2]);
        bridge = asked.ifr_ifindex;
    } else {
        struct ifreq asked = {0};
        strncpy(asked.ifr_name, words[3], IFNAMSIZ - 1);
        if (ioctl(kernel, SIOCGIFINDEX, &asked)) return fail(words[3]);
        bridge = made;
        struct nlmsghdr *header = begin(RTM_NEWLINK, NLM_F_CREATE | NLM_F_EXCL, bridge, IFF_UP);
        add(header, IFLA_IFNAME, words[2], strlen(words[2]) + 1);
        struct rtattr *info = add(header, IFLA_LINKINFO, 0, 0);
        add(header, IFLA_INFO_KIND, "bridge", 6);
        info->rta_len = (char *)header + header->nlmsg_len - (char *)info;
        end(header);
        join(0, asked.ifr_ifindex, bridge, 0);
    }
    join(tap, 0, bridge, NLM_F_ACK);
    struct sockaddr_nl to = {.nl_family = AF_NETLINK};
    if (sendto(kernel, message, length, 0, (void *)&to, sizeof to) < 0) return fail("send");
    ssize_t got = recv(kernel, message, sizeof message, 0);
    struct nlmsghdr *answer = (void *)message;
    struct nlmsgerr *error = NLMSG_DATA(answer);
    if (got < (ssize_t)NLMSG_LENGTH(sizeof *error) || answer->nlmsg_type != NLMSG_ERROR || error->error) {
        errno = -error->error;
        return fail("the kernel");
    }
    return become(words[count - 1], device);
}
