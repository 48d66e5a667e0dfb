#include "simgpu/kernel.h"

#include "simgpu/fatal.h"
#include "simgpu/kernel_work.h"

#include <sched.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

/* The three arguments of kernels before 2.22, which are also the beginning of the argument block since. */
struct launch_arguments {
    char *comm;
    uint64_t channel_mask;
    char *works;
};

/* ncclKernelComm: rank and nRanks */
enum { COMM_RANK = 0, COMM_RANK_COUNT = 4 };

/* A kernel that waits yields its core first, and then sleeps for short: proxies and other ranks need it. */
enum { YIELDS_BEFORE_SLEEP = 10, SLEEP_NANOSECONDS = 20000 };

static void wait_a_little(unsigned idle_rounds) {
    if (idle_rounds < YIELDS_BEFORE_SLEEP)
        sched_yield();
    else
        nanosleep(&(struct timespec){0, SLEEP_NANOSECONDS}, NULL);
}

/* Runs the present phase of a channel as far as it goes. Returns whether anything moved. */
static bool advance_channel(struct sim_channel *channel, const struct sim_lane_context *context) {
    struct sim_phase *phase = &channel->phases[channel->current];
    bool progress = false, done = true;
    for (size_t i = 0; i < phase->count; i++) {
        struct sim_lane *lane = &phase->lanes[i];
        if (!sim_lane_is_done(lane)) progress |= sim_lane_advance(lane, context);
        done &= sim_lane_is_done(lane);
    }
    channel->current += done;
    return progress || done;
}

static void run_channels(struct sim_kernel *kernel) {
    unsigned idle_rounds = 0;
    for (;;) {
        bool progress = false, done = true;
        for (size_t i = 0; i < kernel->channel_count; i++) {
            struct sim_channel *channel = &kernel->channels[i];
            if (channel->current == channel->count) continue;
            progress |= advance_channel(channel, &kernel->context);
            done = false;
        }
        if (done || (kernel->abort_flag && atomic_load_explicit(kernel->abort_flag, memory_order_relaxed))) return;
        idle_rounds = progress ? 0 : idle_rounds + 1;
        if (idle_rounds) wait_a_little(idle_rounds);
    }
}

static void free_channels(struct sim_kernel *kernel) {
    for (size_t i = 0; i < kernel->channel_count; i++) {
        struct sim_channel *channel = &kernel->channels[i];
        for (size_t p = 0; p < channel->count; p++) {
            for (size_t l = 0; l < channel->phases[p].count; l++)
                free(channel->phases[p].lanes[l].moves);
            free(channel->phases[p].lanes);
        }
        free(channel->phases);
    }
}

static void run_kernel(void *argument) {
    const struct launch_arguments *arguments = argument;
    const char *comm = arguments->comm;
    struct sim_kernel kernel = {.context = {comm},
                                .rank = sim_int_at(comm, COMM_RANK),
                                .rank_count = sim_int_at(comm, COMM_RANK_COUNT),
                                .abort_flag = sim_pointer_at(comm, sim_layout->comm.abort_flag)};
    char *channels = sim_pointer_at(comm, sim_layout->comm.channels);
    for (int i = 0; i < SIM_MAX_CHANNELS; i++)
        if (arguments->channel_mask >> i & 1)
            kernel.channels[kernel.channel_count++] =
                (struct sim_channel){.index = i, .raw = channels + (size_t)i * sim_layout->channel.size};
    if (sim_layout->work_format == SIM_WORK_BATCHES)
        sim_work_read_batches(&kernel, argument);
    else
        sim_work_read_elements(&kernel, arguments->works);
    run_channels(&kernel);
    free_channels(&kernel);
    free(argument);
}

void sim_kernel_launch(sim_stream_t *stream, const void *arguments, size_t size) {
    if (size < sizeof(struct launch_arguments)) sim_fatal("a kernel with %zu bytes of arguments", size);
    sim_stream_enqueue(stream, run_kernel, memcpy(sim_allocate(size), arguments, size));
}

void sim_kernel_launch_pointers(sim_stream_t *stream, void **pointers) {
    struct launch_arguments *arguments = sim_allocate(sizeof *arguments);
    memcpy(&arguments->comm, pointers[0], sizeof arguments->comm);
    memcpy(&arguments->channel_mask, pointers[1], sizeof arguments->channel_mask);
    memcpy(&arguments->works, pointers[2], sizeof arguments->works);
    sim_stream_enqueue(stream, run_kernel, arguments);
}
