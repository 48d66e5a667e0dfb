/* NCCL's send/recv kernel. Source: NVIDIA/nccl v2.28.9-1, src/device/sendrecv.h (2.18: src/collectives/device). */
#include "simgpu/kernel_work.h"

/* Send/recv has its own connections beside those of collectives. */
enum { P2P_CONNECTION = 1 };

static void add_lane(struct sim_phase *phase, const struct sim_transfer *transfer, char *receive, char *send) {
    struct sim_lane *lane = sim_phase_add_lane(phase);
    lane->protocol = transfer->protocol;
    lane->slices_per_move = 1;
    lane->steps_per_slice = 1;
    lane->element_size = 1;
    sim_lane_connect(lane, receive, send);
    size_t done = 0;
    do { /* a transfer of no bytes is one message of no bytes */
        size_t size = transfer->size - done < transfer->chunk ? transfer->size - done : transfer->chunk;
        struct sim_move move = {.size = size, .receive = receive != NULL, .send = send != NULL};
        if (receive)
            move.destination = transfer->buffer + done;
        else
            move.source = transfer->buffer + done;
        sim_lane_add(lane, &move);
        done += size;
    } while (done < transfer->size);
}

void sim_phase_add_send(struct sim_phase *phase, const struct sim_channel *channel,
                        const struct sim_transfer *transfer) {
    add_lane(phase, transfer, NULL, sim_channel_send_connection(channel, transfer->peer, P2P_CONNECTION));
}

void sim_phase_add_receive(struct sim_phase *phase, const struct sim_channel *channel,
                           const struct sim_transfer *transfer) {
    add_lane(phase, transfer, sim_channel_receive_connection(channel, transfer->peer, P2P_CONNECTION), NULL);
}
