/* rtnetlink(7). The kernel answers RTM_GETROUTE before send returns. */
#include "setup/route.h"

#include <linux/netlink.h>
#include <linux/rtnetlink.h>
#include <string.h>
#include <unistd.h>

typedef struct {
    struct nlmsghdr head;
    struct rtmsg route;
    char attributes[128];
} request_t;

static void add(request_t *request, unsigned short type, const void *data, size_t size) {
    struct rtattr *at = (struct rtattr *)((char *)request + NLMSG_ALIGN(request->head.nlmsg_len));
    at->rta_type = type;
    at->rta_len = (unsigned short)RTA_LENGTH(size);
    memcpy(RTA_DATA(at), data, size);
    request->head.nlmsg_len = (uint32_t)(NLMSG_ALIGN(request->head.nlmsg_len) + RTA_ALIGN(at->rta_len));
}

static const void *bytes_of(const tpv_address_t *address, size_t *size) {
    bool v6 = address->any.sa_family == AF_INET6;
    *size = v6 ? sizeof address->v6.sin6_addr : sizeof address->v4.sin_addr;
    return v6 ? (const void *)&address->v6.sin6_addr : (const void *)&address->v4.sin_addr;
}

/* The interface of the route, which must not be local, when it has to be `wanted` (0: any); 0 when there is none. */
static unsigned look_up(int fd, const tpv_address_t *source, const tpv_address_t *target, unsigned wanted) {
    union {
        struct nlmsghdr head;
        char bytes[4096];
    } answer;
    request_t request;
    size_t size;
    memset(&request, 0, sizeof request);
    const void *bytes = bytes_of(target, &size);
    request.head.nlmsg_len = NLMSG_LENGTH(sizeof request.route);
    request.head.nlmsg_type = RTM_GETROUTE;
    request.head.nlmsg_flags = NLM_F_REQUEST;
    request.route.rtm_family = (unsigned char)target->any.sa_family;
    request.route.rtm_dst_len = (unsigned char)(8 * size);
    add(&request, RTA_DST, bytes, size);
    bytes = bytes_of(source, &size);
    request.route.rtm_src_len = (unsigned char)(8 * size);
    add(&request, RTA_SRC, bytes, size);
    if (wanted) add(&request, RTA_OIF, &wanted, sizeof wanted);
    if (send(fd, &request, request.head.nlmsg_len, MSG_DONTWAIT) < 0) return 0;
    ssize_t got = recv(fd, &answer, sizeof answer, MSG_DONTWAIT);
    if (got < (ssize_t)NLMSG_LENGTH(sizeof(struct rtmsg)) || !NLMSG_OK(&answer.head, (size_t)got)) return 0;
    if (answer.head.nlmsg_type != RTM_NEWROUTE) return 0;
    const struct rtmsg *route = NLMSG_DATA(&answer.head);
    if (route->rtm_type != RTN_UNICAST) return 0;
    int left = (int)RTM_PAYLOAD(&answer.head);
    for (const struct rtattr *at = RTM_RTA(route); RTA_OK(at, left); at = RTA_NEXT(at, left)) {
        unsigned index;
        if (at->rta_type != RTA_OIF || RTA_PAYLOAD(at) != sizeof index) continue;
        memcpy(&index, RTA_DATA(at), sizeof index);
        return index;
    }
    return 0;
}

bool tpv_route_strays(const tpv_address_t *source, const tpv_address_t *target, unsigned index) {
    int fd = socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, NETLINK_ROUTE);
    if (fd < 0) return false;
    unsigned usual = look_up(fd, source, target, 0);
    bool strays = usual && usual != index && look_up(fd, source, target, index) == index;
    close(fd);
    return strays;
}
