#include "setup/dial.h"

#include <errno.h>
#include <poll.h>
#include <string.h>
#include <unistd.h>

#include "core/socket.h"
#include "setup/route.h"

/* The address of the device to come from; NULL: leave it to the kernel. A link-local target has its scope, which says
 * the same. */
static const tpv_address_t *source_for(const tpv_interface_t *interface, const tpv_address_t *target) {
    if (target->any.sa_family == AF_INET6 && IN6_IS_ADDR_LINKLOCAL(&target->v6.sin6_addr)) return NULL;
    for (int i = 0; i < interface->address_count; i++)
        if (interface->addresses[i].any.sa_family == target->any.sa_family) return &interface->addresses[i];
    return NULL;
}

tpv_tie_t tpv_dial_tie(const tpv_interface_t *interface, const tpv_address_t *target) {
    const tpv_address_t *source = source_for(interface, target);
    if (!source) return TPV_TIE_NONE;
    return tpv_route_strays(source, target, interface->index) ? TPV_TIE_DEVICE : TPV_TIE_ADDRESS;
}

/* The port is chosen by connect, which knows more of what is free than bind. */
static bool tie_down(int fd, const tpv_interface_t *interface, tpv_tie_t tie, const tpv_address_t *target) {
    const tpv_address_t *source = source_for(interface, target);
    int one = 1;
    if (tie == TPV_TIE_NONE || !source) return true;
    if (tie == TPV_TIE_DEVICE &&
        setsockopt(fd, SOL_SOCKET, SO_BINDTODEVICE, interface->name, (socklen_t)strlen(interface->name)) != 0)
        return false;
    (void)setsockopt(fd, IPPROTO_IP, IP_BIND_ADDRESS_NO_PORT, &one, sizeof one);
    return bind(fd, &source->any, tpv_address_length(source)) == 0;
}

int tpv_dial(const tpv_interface_t *interface, tpv_tie_t tie, const tpv_address_t *target, int traffic_class) {
    int fd = socket(target->any.sa_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (fd < 0) return -1;
    tpv_socket_tune(fd, target->any.sa_family, traffic_class);
    if (tie_down(fd, interface, tie, target) &&
        (connect(fd, &target->any, tpv_address_length(target)) == 0 || errno == EINPROGRESS || errno == EINTR))
        return fd;
    int error_number = errno;
    close(fd);
    errno = error_number;
    return -1;
}

/* A connect to a port of this host that nobody listens at can end up connected to itself. */
static bool connected_to_itself(int fd) {
    tpv_address_t local, peer;
    tpv_socket_names(fd, &local, &peer);
    return memcmp(&local, &peer, sizeof local) == 0;
}

bool tpv_dial_settled(int fd, int *error_number) {
    struct pollfd poll_fd = {.fd = fd, .events = POLLOUT};
    if (poll(&poll_fd, 1, 0) <= 0) return false;
    socklen_t length = sizeof *error_number;
    if (getsockopt(fd, SOL_SOCKET, SO_ERROR, error_number, &length) != 0) *error_number = errno;
    if (*error_number == 0 && connected_to_itself(fd)) *error_number = ECONNREFUSED;
    return true;
}
