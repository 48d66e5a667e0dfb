/* The Simple and LL protocols of NCCL's kernels. Source of the protocol: NVIDIA/nccl v2.28.9-1,
 * src/device/prims_simple.h, prims_ll.h and src/include/collectives.h (ncclConnFifo), the same in the other releases
 * of kernel_args.c except where said. */
#include "simgpu/kernel_lane.h"

#include "simgpu/fatal.h"
#include "simgpu/kernel_args.h"

#include <stdlib.h>
#include <string.h>

/* NCCL_MODE_OFFSET: the slot lies in a shared buffer. */
enum { FIFO_MODE_OFFSET = 1 };

/* ncclLLFifoLine: 8 bytes of data, each half followed by a flag, so that half a line is never taken for data. */
struct ll_line {
    _Atomic uint64_t halves[2];
};
enum { LL_DATA_BYTES = 8 };
_Static_assert(sizeof(struct ll_line) == 16, "ncclLLFifoLine");

static void *pointer_at(const char *raw, unsigned offset) {
    void *pointer;
    memcpy(&pointer, raw + offset, sizeof pointer);
    return pointer;
}

static int int_at(const char *raw, unsigned offset) {
    int value;
    memcpy(&value, raw + offset, sizeof value);
    return value;
}

void sim_lane_add(struct sim_lane *lane, const struct sim_move *move) {
    if (lane->count == lane->capacity) {
        lane->capacity = lane->capacity ? 2 * lane->capacity : 16;
        lane->moves = realloc(lane->moves, lane->capacity * sizeof *lane->moves);
        if (!lane->moves) sim_fatal("out of memory");
    }
    lane->moves[lane->count++] = *move;
}

/* ---- connections */

static void connection_begin(struct sim_connection *connection, const struct sim_lane *lane,
                             const struct sim_lane_context *context) {
    if (!connection->raw) return;
    const int buffer_size = int_at(context->comm, sim_layout->comm.buffer_sizes + 4u * (unsigned)lane->protocol);
    connection->tail = pointer_at(connection->raw, sim_layout->connection.tail);
    connection->head = pointer_at(connection->raw, sim_layout->connection.head);
    connection->buffer = pointer_at(connection->raw, (unsigned)lane->protocol * (unsigned)sizeof(void *));
    connection->step_size = (size_t)buffer_size / NCCL_STEPS;
    if (lane->protocol == NCCL_PROTOCOL_SIMPLE && sim_layout->connection.step_size != ABSENT)
        connection->step_size = (size_t)int_at(connection->raw, sim_layout->connection.step_size);
    memcpy(&connection->step, connection->raw + sim_layout->connection.step, sizeof connection->step);
    if (lane->protocol == NCCL_PROTOCOL_SIMPLE) {
        unsigned steps = lane->slices_per_move * lane->steps_per_slice;
        connection->step = (connection->step + steps - 1) / steps * steps;
        if (connection == &lane->receive) /* gives the skipped slots back to the sender */
            atomic_store_explicit(connection->head, connection->step, memory_order_release);
    }
}

static void connection_end(const struct sim_connection *connection) {
    if (connection->raw)
        memcpy(connection->raw + sim_layout->connection.step, &connection->step, sizeof connection->step);
}

/* The entry of the present step's slot in the list through which kernel and proxy talk beside the counters, or NULL. */
static char *fifo_entry(const struct sim_connection *connection) {
    char *fifo = pointer_at(connection->raw, sim_layout->connection.fifo);
    return fifo ? fifo + connection->step % NCCL_STEPS * sim_layout->fifo.entry_size : NULL;
}

/* Tells the proxy how much the slot of the present step holds. */
static void post_size(const struct sim_connection *connection, size_t size) {
    if (sim_layout->connection.fifo != ABSENT) {
        char *entry = fifo_entry(connection);
        if (entry)
            atomic_store_explicit((_Atomic int64_t *)(entry + sim_layout->fifo.size), (int64_t)size,
                                  memory_order_release);
    } else {
        _Atomic int *sizes = pointer_at(connection->raw, sim_layout->connection.sizes_fifo);
        if (sizes) atomic_store_explicit(&sizes[connection->step % NCCL_STEPS], (int)size, memory_order_release);
    }
}

/* Where the slot of the present step lies: at its place in the connection's buffer, or, in buffers that connections
 * share, where the proxy says. */
static char *slot_address(const struct sim_connection *connection) {
    unsigned slot = connection->step % NCCL_STEPS;
    if (sim_layout->connection.fifo != ABSENT) {
        const char *entry = fifo_entry(connection);
        if (entry && int_at(entry, 0) == FIFO_MODE_OFFSET) {
            int64_t offset = 0;
            memcpy(&offset, entry + sim_layout->fifo.offset, sim_layout->fifo.offset_size);
            return connection->buffer + offset;
        }
    } else {
        const int *offsets = pointer_at(connection->raw, sim_layout->connection.offsets_fifo);
        if (offsets) return connection->buffer + offsets[slot];
    }
    return connection->buffer + slot * connection->step_size;
}

/* ---- Simple: whole slots, announced by the counters */

static void carry(const struct sim_lane *lane, const struct sim_move *move, size_t offset, size_t size,
                  const char *received, char *sent) {
    const char *source = move->source ? move->source + offset : NULL;
    char *destination = move->destination ? move->destination + offset : NULL;
    if (size == 0) return;
    const char *data = received ? received : source;
    if (received && source) {
        char *result = destination ? destination : sent;
        lane->sum(result, received, source, size / lane->element_size);
        data = result;
    }
    if (destination && destination != data) memmove(destination, data, size);
    if (sent && sent != data) memcpy(sent, data, size);
}

/* Bytes of the next slice: a move's slices are equal, in multiples of 16 elements, and never smaller than 1/32 of what
 * the slots of a slice hold (genericOp). */
static size_t slice_size(const struct sim_lane *lane, const struct sim_lane_context *context, size_t size) {
    size_t elements = size / lane->element_size, granule = (size_t)16 * lane->slices_per_move;
    size_t step_bytes =
        (size_t)int_at(context->comm, sim_layout->comm.buffer_sizes + 4u * NCCL_PROTOCOL_SIMPLE) / NCCL_STEPS;
    size_t least = step_bytes / lane->element_size * lane->steps_per_slice / 32;
    size_t slice = (elements + granule - 1) / granule * 16;
    return (slice > least ? slice : least) * lane->element_size;
}

static bool advance_simple(struct sim_lane *lane, const struct sim_lane_context *context) {
    const struct sim_move *move = &lane->moves[lane->move];
    struct sim_connection *receive = &lane->receive, *send = &lane->send;
    const unsigned steps = lane->steps_per_slice;
    if (move->receive && atomic_load_explicit(receive->tail, memory_order_acquire) < receive->step + steps)
        return false;
    if (move->send && atomic_load_explicit(send->head, memory_order_acquire) + NCCL_STEPS < send->step + steps)
        return false;

    size_t size = slice_size(lane, context, move->size);
    if (size > move->size - lane->offset) size = move->size - lane->offset;
    if (move->send) post_size(send, size);
    carry(lane, move, lane->offset, size, move->receive ? slot_address(receive) : NULL,
          move->send ? slot_address(send) : NULL);
    if (move->receive) {
        receive->step += steps;
        atomic_store_explicit(receive->head, receive->step, memory_order_release);
    }
    if (move->send) {
        send->step += steps;
        atomic_store_explicit(send->tail, send->step, memory_order_release);
    }
    lane->offset += size;
    if (++lane->slice == lane->slices_per_move) {
        lane->slice = 0;
        lane->offset = 0;
        lane->move++;
    }
    return true;
}

/* ---- LL: lines with flags, which the receiver polls itself */

static bool line_read(const struct ll_line *line, uint32_t flag, uint64_t *data) {
    uint64_t low = atomic_load_explicit(&line->halves[0], memory_order_acquire);
    uint64_t high = atomic_load_explicit(&line->halves[1], memory_order_acquire);
    if ((uint32_t)(low >> 32) != flag || (uint32_t)(high >> 32) != flag) return false;
    *data = (low & UINT32_MAX) | high << 32;
    return true;
}

static void line_write(struct ll_line *line, uint32_t flag, uint64_t data) {
    uint64_t mark = (uint64_t)flag << 32;
    atomic_store_explicit(&line->halves[0], mark | (data & UINT32_MAX), memory_order_release);
    atomic_store_explicit(&line->halves[1], mark | data >> 32, memory_order_release);
}

static struct ll_line *ll_slot(const struct sim_connection *connection) {
    return (struct ll_line *)(connection->buffer + connection->step % NCCL_STEPS * connection->step_size);
}

/* A flag is the low half of the step's number plus one. Kernels also rewrite a whole slot just before that number
 * wraps at 2^31, which no test lives to see. */
static uint32_t ll_flag(const struct sim_connection *connection) {
    return (uint32_t)(connection->step + 1);
}

static bool advance_ll(struct sim_lane *lane) {
    const struct sim_move *move = &lane->moves[lane->move];
    struct sim_connection *receive = &lane->receive, *send = &lane->send;
    bool progress = false;
    if (move->send && !lane->credit) {
        if (atomic_load_explicit(send->head, memory_order_acquire) + NCCL_STEPS < send->step + 1) return false;
        post_size(send, (move->size + LL_DATA_BYTES - 1) / LL_DATA_BYTES * sizeof(struct ll_line));
        lane->credit = true;
        progress = true;
    }
    while (lane->offset < move->size) {
        size_t line = lane->offset / LL_DATA_BYTES;
        size_t size = move->size - lane->offset < LL_DATA_BYTES ? move->size - lane->offset : LL_DATA_BYTES;
        uint64_t received, data = 0;
        if (move->receive && !line_read(ll_slot(receive) + line, ll_flag(receive), &received)) return progress;
        if (move->source) memcpy(&data, move->source + lane->offset, size);
        if (move->receive && move->source)
            lane->sum(&data, &received, &data, size / lane->element_size);
        else if (move->receive)
            data = received;
        if (move->destination) memcpy(move->destination + lane->offset, &data, size);
        if (move->send) line_write(ll_slot(send) + line, ll_flag(send), data);
        lane->offset += size;
        progress = true;
    }
    if (move->receive) {
        receive->step++;
        atomic_store_explicit(receive->head, receive->step, memory_order_release);
    }
    if (move->send) send->step++;
    lane->credit = false;
    lane->offset = 0;
    lane->move++;
    return true;
}

static _Atomic uint64_t moves_done[NCCL_PROTOCOLS];

uint64_t sim_lane_moves(int protocol) {
    return atomic_load_explicit(&moves_done[protocol], memory_order_relaxed);
}

bool sim_lane_advance(struct sim_lane *lane, const struct sim_lane_context *context) {
    if (!lane->begun) {
        connection_begin(&lane->receive, lane, context);
        connection_begin(&lane->send, lane, context);
        lane->begun = true;
    }
    bool progress = false;
    size_t before = lane->move;
    if (lane->move < lane->count)
        progress = lane->protocol == NCCL_PROTOCOL_LL ? advance_ll(lane) : advance_simple(lane, context);
    if (lane->move > before) atomic_fetch_add_explicit(&moves_done[lane->protocol], 1, memory_order_relaxed);
    if (lane->move == lane->count) {
        connection_end(&lane->receive);
        connection_end(&lane->send);
    }
    return progress;
}
