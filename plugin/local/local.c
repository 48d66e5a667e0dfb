#include "local/local.h"

#include "local/pair.h"

static unsigned connections(const tpv_device_t *device) {
    (void)device;
    return 1;
}

const tpv_transport_t tpv_local_transport = {
    .name = "local",
    .id = 2,
    .connections = connections,
    .offer = tpv_local_offer,
    .take = tpv_local_take,
    .send_over = tpv_local_send_over,
    .receive_over = tpv_local_receive_over,
    .drop = tpv_local_drop,
};
