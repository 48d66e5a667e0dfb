# NCCL without a GPU: the simulated device, and the tests and tools that run real NCCL on it.
SIM_DIR  := $(B)/tests/simgpu
SIM_SRC  := $(filter-out $(wildcard tests/simgpu/test_*.c) tests/simgpu/nvml.c tests/simgpu/sendrecv_bw.c, \
              $(wildcard tests/simgpu/*.c))
SIM_OBJ  := $(SIM_SRC:%.c=$(B)/obj/%.o)
SIM_BENCH := $(SIM_DIR)/sendrecv_bw
SIM_TESTS := $(patsubst tests/simgpu/%.c,$(SIM_DIR)/%,$(wildcard tests/simgpu/test_*.c))

# NCCL finds the stand-in by its soname, because the program that loads NCCL is linked with it.
$(SIM_DIR)/libnvidia-ml.so.1: $(B)/obj/tests/simgpu/nvml.o
	$(Q)mkdir -p $(@D)
	$(call say,LINK,$@)
	$(Q)$(CC) $(LDSAN) $(LDFLAGS) -shared -Wl,-soname,$(@F) $< -o $@

$(SIM_TESTS) $(SIM_BENCH): $(SIM_DIR)/%: $(B)/obj/tests/simgpu/%.o $(SIM_OBJ) $(SIM_DIR)/libnvidia-ml.so.1
	$(Q)mkdir -p $(@D)
	$(call say,LINK,$@)
	$(Q)$(CC) $(LDSAN) $(LDFLAGS) -pthread $(filter %.o,$^) -Wl,--no-as-needed $(SIM_DIR)/libnvidia-ml.so.1 \
	  -Wl,-rpath,'$$ORIGIN' -lcmocka -ldl -o $@

# Releases that load net ABI v11 and v12; the longer list adds v6, v8 and v10 and the newest release.
NCCL_RELEASES     ?= 2.28.9 2.30.7
NCCL_ALL_RELEASES ?= 2.18.3 2.21.5 2.26.5 $(NCCL_RELEASES) 2.32.3

.PHONY: check-nccl check-nccl-all
tests: $(SIM_TESTS) $(SIM_BENCH)

check-nccl: $(PLUGIN) $(SIM_TESTS)
	$(Q)scripts/check-nccl $(B) $(NCCL_RELEASES)

check-nccl-all: $(PLUGIN) $(SIM_TESTS)
	$(Q)scripts/check-nccl $(B) $(NCCL_ALL_RELEASES)
