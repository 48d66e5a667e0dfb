#include "simgpu/kernel_work.h"

#include "simgpu/fatal.h"

#include <stdlib.h>
#include <string.h>

void *sim_pointer_at(const char *raw, unsigned offset) {
    void *pointer;
    memcpy(&pointer, raw + offset, sizeof pointer);
    return pointer;
}

int sim_int_at(const char *raw, unsigned offset) {
    int value;
    memcpy(&value, raw + offset, sizeof value);
    return value;
}

/* Appends a zeroed item of `size` bytes to a growing array. */
static void *append(void **items, size_t *count, size_t *capacity, size_t size) {
    if (*count == *capacity) {
        *capacity = *capacity ? 2 * *capacity : 4;
        *items = realloc(*items, *capacity * size);
        if (!*items) sim_fatal("out of memory");
    }
    void *item = (char *)*items + (*count)++ * size;
    memset(item, 0, size);
    return item;
}

struct sim_phase *sim_channel_add_phase(struct sim_channel *channel) {
    return append((void **)&channel->phases, &channel->count, &channel->capacity, sizeof *channel->phases);
}

struct sim_lane *sim_phase_add_lane(struct sim_phase *phase) {
    return append((void **)&phase->lanes, &phase->count, &phase->capacity, sizeof *phase->lanes);
}

/* ncclDevChannel.peers[rank] is an ncclDevChannelPeer: send[2], then recv[2]. */
enum { CONNECTIONS = 2 };

static char *connection(const struct sim_channel *channel, int rank, int index) {
    char *const *peers = sim_pointer_at(channel->raw, 0);
    return peers[rank] + (size_t)index * sim_layout->connection.size;
}

char *sim_channel_send_connection(const struct sim_channel *channel, int rank, int index) {
    return connection(channel, rank, index);
}

char *sim_channel_receive_connection(const struct sim_channel *channel, int rank, int index) {
    return connection(channel, rank, CONNECTIONS + index);
}
