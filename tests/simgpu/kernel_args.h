/* Where NCCL's kernels find things: the layout of device-side structs, release by release. */
#ifndef SIMGPU_KERNEL_ARGS_H
#define SIMGPU_KERNEL_ARGS_H

#include <stdbool.h>
#include <stdint.h>

/* NCCL_PROTO_* and NCCL_ALGO_*: src/include/nccl_common.h (nccl_tuner.h since 2.28). */
enum { NCCL_PROTOCOL_LL = 0, NCCL_PROTOCOL_LL128 = 1, NCCL_PROTOCOL_SIMPLE = 2, NCCL_PROTOCOLS = 3 };
enum { NCCL_ALGORITHM_RING = 1 };

/* Slots of a connection's buffer: NCCL_STEPS in src/include/device.h. */
enum { NCCL_STEPS = 8 };

/* How a kernel is told its work. */
enum sim_work_format {
    SIM_WORK_BATCHES,  /* ncclDevWorkBatch, 2.22 and newer */
    SIM_WORK_ELEMENTS, /* ncclWork whose elements carry each channel's share, 2.19 to 2.21 */
    SIM_WORK_GRID,     /* ncclWork whose elements carry the whole size, 2.18 and older */
};

/* All offsets and sizes are in bytes; ABSENT where a release has no such field. */
enum { ABSENT = 0xffff };

struct sim_layout {
    const char *releases;
    int first_version, last_version; /* as ncclGetVersion tells them */
    enum sim_work_format work_format;
    bool parts_bit_reversed; /* ncclP2pChannelToPart reverses the bits of the part index */

    struct { /* ncclConnInfo; buffs[3] is at its beginning */
        uint16_t tail, head, step_size, fifo, sizes_fifo, offsets_fifo, step, size;
    } connection;
    struct { /* ncclConnFifo, an entry per slot; mode is an int at its beginning */
        uint8_t offset, offset_size, size, entry_size;
    } fifo;
    struct { /* ncclDevChannel; peers is at its beginning, then the ring with prev, next and userRanks */
        uint16_t ring, ring_user_ranks, ring_index, work_fifo_done, size;
    } channel;
    struct { /* ncclKernelComm, ncclDevComm in older releases; rank and nRanks are at its beginning */
        uint16_t buffer_sizes, work_consumed, abort_flag, channels;
    } comm;
    struct { /* ncclDevWorkColl */
        uint16_t receive_buffer, send_buffer, counts, size, registered_size;
    } collective;
    struct { /* numbers that make up the row of a function in ncclDevFuncRowToId, see ncclDevFuncId() */
        uint8_t all_gather_algorithms, all_gather_v_algorithms, types;
        uint8_t id_bits; /* of the function id in an ncclDevWorkBatch */
    } functions;
};

/* The layout of the NCCL release that was attached; set once by sim_attach. */
extern const struct sim_layout *sim_layout;

/* ncclDevFuncRowToId of the attached libnccl: function row to the function id that works carry. NULL in releases whose
 * function index is a formula. */
extern const int *sim_function_ids;

/* The layout for a release, or NULL when none is known. */
const struct sim_layout *sim_layout_find(int version);

/* What a collective's function id stands for. */
enum sim_collective { SIM_ALL_GATHER, SIM_BROADCAST, SIM_ALL_REDUCE };

struct sim_function_id {
    enum sim_collective collective;
    int algorithm, protocol; /* NCCL_ALGO_*, NCCL_PROTO_* */
    int type;                /* ncclDataType_t; only meaningful for SIM_ALL_REDUCE, others move bytes */
};

/* Finds which collective a work's function id means, among ring all-gather, broadcast and all-reduce by sum. Returns
 * false for any other. */
bool sim_function_find(unsigned id, struct sim_function_id *found);

#endif
