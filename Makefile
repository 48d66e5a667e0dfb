# tpview. Everything built lands below $(B): programs in $(B)/bin, libraries in $(B)/lib.
#   make            the plugin, the library, the service and the tools; V=1 shows every command
#   make check      every test, to the end, with one list of what failed;  PARTS="unit functional ...": some of them,
#                   TEST_JOBS=N: so many at once where they do not share what they make (default 4)
#   make check-fast the developer's loop: unit tests and one pass of each functional program
#   make check-asan check-tsan: under sanitizers;  check-nccl-all: more NCCL releases
#   make check-loaded: twice beside eight busy loops;  check-bare: in a bare Debian 12 root (as root)
#   make chaos      kill and stop everything at random: ROUNDS=N SEED=S
#   make soak-net bench demo fuzz lint install clean

B        ?= build
V        ?= 0
PREFIX   ?= /usr/local
DESTDIR  ?=
SAN      ?=
# libFuzzer needs clang; the seconds are for each target.
FUZZ_CC      ?= clang
FUZZ_SECONDS ?= 60
SOAK_SECONDS ?= 300
# A checkpoint that benchmarks may make and reuse.
BENCH_DIR ?= $(B)/bench

OPT      ?= -O3
CFLAGS   ?= $(OPT) -g
WARN     := -std=c11 -Wall -Wextra -Wshadow -Wstrict-prototypes -Wmissing-prototypes -Wpointer-arith \
            -Wvla -Wformat=2 -Wno-format-nonliteral
DEFS     := -D_GNU_SOURCE
COMMON   := $(WARN) $(DEFS) -fPIC -fvisibility=hidden -pthread -MMD -MP
ifneq ($(SAN),)
COMMON   += -fsanitize=$(SAN) -fno-omit-frame-pointer -fno-sanitize-recover=all
LDSAN    := -fsanitize=$(SAN)
endif

# $(call say,WHAT,FILE): the one line of a step; V=1 shows the commands instead.
ifeq ($(V),1)
say :=
Q   :=
else
say = @printf '  %-5s %s\n' '$(1)' '$(2)'
Q   := @
endif

PKGS     := libmicrohttpd gnutls libcurl jansson libxxhash libcrypto
PKG_CFLAGS := $(shell pkg-config --cflags $(PKGS) 2>/dev/null)
# Each links what it uses: a rank needs no HTTP server.
PKG_LIBS   := -Wl,--as-needed $(shell pkg-config --libs $(PKGS) 2>/dev/null) -Wl,--no-as-needed

# ---- what is built of what ----------------------------------------------------------------------
# The plugin sees include/ncclnet and itself; the library sees include/ and src/: neither can see the other.
PLUGIN_SRC := $(wildcard plugin/*/*.c)
LIB_SRC    := $(wildcard $(addprefix src/,$(addsuffix /*.c,base channel artifact view lifecycle client)))
SERVICE_SRC:= $(wildcard src/service/*.c)
TOOL_SRC   := $(wildcard src/tools/common/*.c)
CLI_SRC    := $(wildcard src/tools/tpview/*.c)
PERF_SRC     := $(wildcard src/tools/perf/*.c)
NET_PERF_SRC := $(wildcard src/tools/net_perf/*.c)

PLUGIN_OBJ := $(PLUGIN_SRC:%.c=$(B)/obj/%.o)
LIB_OBJ    := $(LIB_SRC:%.c=$(B)/obj/%.o)
SERVICE_OBJ:= $(SERVICE_SRC:%.c=$(B)/obj/%.o)
TOOL_OBJ   := $(TOOL_SRC:%.c=$(B)/obj/%.o)
CLI_OBJ    := $(CLI_SRC:%.c=$(B)/obj/%.o)
PERF_OBJ     := $(PERF_SRC:%.c=$(B)/obj/%.o)
NET_PERF_OBJ := $(NET_PERF_SRC:%.c=$(B)/obj/%.o)

PLUGIN := $(B)/lib/libnccl-net-tpview.so
LIB    := $(B)/lib/libtpview.so
LIBA   := $(B)/lib/libtpview.a
BINS   := $(addprefix $(B)/bin/,tpviewd tpview tpview_perf tpview_net_perf)

UNIT       := $(patsubst tests/unit/%.c,$(B)/tests/unit/%,$(wildcard tests/unit/test_*.c))
FUNCTIONAL := $(patsubst tests/functional/%.c,$(B)/tests/functional/%,$(wildcard tests/functional/test_*.c))
TEST_LIB_OBJ := $(patsubst %.c,$(B)/obj/%.o,$(wildcard tests/common/*.c))
TEST_NETS  := $(patsubst tests/nets/%.c,$(B)/tests/lib%.so,$(wildcard tests/nets/*.c)) \
             $(patsubst tests/preload/%.c,$(B)/tests/lib%.so,$(wildcard tests/preload/*.c))

.PHONY: all check check-fast check-loaded check-bare check-unit check-functional check-python check-models check-chaos check-asan check-tsan
.PHONY: check-vllm chaos soak-net bench demo fuzz lint install clean tests
.SECONDARY:
.DELETE_ON_ERROR:

all: $(PLUGIN) $(LIB) $(LIBA) $(BINS)

# ---- compile ------------------------------------------------------------------------------------
$(B)/obj/plugin/%.o: plugin/%.c
	$(Q)mkdir -p $(@D)
	$(call say,CC,$<)
	$(Q)$(CC) $(CFLAGS) $(COMMON) -Iinclude -Iplugin -c $< -o $@

$(B)/obj/src/%.o: src/%.c
	$(Q)mkdir -p $(@D)
	$(call say,CC,$<)
	$(Q)$(CC) $(CFLAGS) $(COMMON) -Iinclude -Isrc $(PKG_CFLAGS) -c $< -o $@

$(B)/obj/tests/%.o: tests/%.c
	$(Q)mkdir -p $(@D)
	$(call say,CC,$<)
	$(Q)$(CC) $(CFLAGS) $(COMMON) -Iinclude -Isrc -Itests $(PKG_CFLAGS) -c $< -o $@

# Plans of model families, as C strings.
FAMILIES := $(sort $(wildcard src/view/families/*.json))
$(B)/gen/view/families.inc: $(FAMILIES)
	@mkdir -p $(@D)
	for file in $(FAMILIES); do echo "{\"$$(basename $$file .json)\","; \
	  sed -e 's/\\/\\\\/g' -e 's/"/\\"/g' -e 's/^ */"/' -e 's/$$/\\n"/' $$file; echo '},'; done >$@
$(B)/obj/src/view/families.o: $(B)/gen/view/families.inc
$(B)/obj/src/view/families.o: COMMON += -I$(B)/gen

# ---- link ---------------------------------------------------------------------------------------
# -z nodelete: NCCL may dlclose the plugin with the last communicator while its threads and TLS live on.
$(PLUGIN): $(PLUGIN_OBJ) plugin/plugin.map
	$(Q)mkdir -p $(@D)
	$(call say,LINK,$@)
	$(Q)$(CC) $(LDSAN) $(LDFLAGS) -shared -pthread -Wl,-z,nodelete -Wl,-z,defs -Wl,-soname,$(@F) \
	  -Wl,--version-script=plugin/plugin.map $(PLUGIN_OBJ) -o $@

$(LIBA): $(LIB_OBJ)
	$(Q)mkdir -p $(@D)
	$(call say,AR,$@)
	$(Q)rm -f $@ && $(AR) rcs $@ $^

$(LIB): $(LIB_OBJ) src/libtpview.map
	$(Q)mkdir -p $(@D)
	$(call say,LINK,$@)
	$(Q)$(CC) $(LDSAN) $(LDFLAGS) -shared -pthread -Wl,-z,defs -Wl,-soname,$(@F) \
	  -Wl,--version-script=src/libtpview.map $(LIB_OBJ) $(PKG_LIBS) -ldl -o $@

$(B)/bin/tpviewd: $(B)/obj/src/tools/tpviewd.o $(TOOL_OBJ) $(SERVICE_OBJ) $(LIBA)
	$(Q)mkdir -p $(@D)
	$(call say,LINK,$@)
	$(Q)$(CC) $(LDSAN) $(LDFLAGS) -pthread $^ $(PKG_LIBS) -ldl -o $@

$(B)/bin/tpview: $(CLI_OBJ) $(TOOL_OBJ) $(LIBA)
	$(Q)mkdir -p $(@D)
	$(call say,LINK,$@)
	$(Q)$(CC) $(LDSAN) $(LDFLAGS) -pthread $^ $(PKG_LIBS) -ldl -o $@

$(B)/bin/tpview_net_perf: $(NET_PERF_OBJ) $(TOOL_OBJ) $(LIBA)
	$(Q)mkdir -p $(@D)
	$(call say,LINK,$@)
	$(Q)$(CC) $(LDSAN) $(LDFLAGS) -pthread $^ $(PKG_LIBS) -ldl -o $@

$(B)/bin/tpview_perf: $(PERF_OBJ) $(TOOL_OBJ) $(LIBA)
	$(Q)mkdir -p $(@D)
	$(call say,LINK,$@)
	$(Q)$(CC) $(LDSAN) $(LDFLAGS) -pthread $^ $(PKG_LIBS) -ldl -o $@

# ---- tests --------------------------------------------------------------------------------------
$(B)/tests/%: $(B)/obj/tests/%.o $(TEST_LIB_OBJ) $(SERVICE_OBJ) $(LIBA)
	$(Q)mkdir -p $(@D)
	$(call say,LINK,$@)
	$(Q)$(CC) $(LDSAN) $(LDFLAGS) -pthread $^ $(PKG_LIBS) -lcmocka -ldl -o $@

# Cuts views of tiny checkpoints for tests/models.
$(B)/tests/models/write_views: $(B)/obj/tests/models/write_views.o $(TOOL_OBJ) $(LIBA)
	$(Q)mkdir -p $(@D)
	$(call say,LINK,$@)
	$(Q)$(CC) $(LDSAN) $(LDFLAGS) -pthread $^ $(PKG_LIBS) -ldl -o $@

# The tests that look inside the plugin.
$(B)/obj/tests/unit/test_net_tuner.o $(B)/obj/tests/unit/test_net_address.o: COMMON += -Iplugin
$(B)/obj/tests/functional/test_net_local.o: COMMON += -Iplugin
$(B)/tests/unit/test_net_address: $(B)/obj/plugin/core/address.o
$(B)/tests/unit/test_net_tuner: $(B)/obj/plugin/tcp/tuner.o

# The one that looks inside the tools.
$(B)/tests/unit/test_perf_parts: $(B)/obj/src/tools/common/exact_io.o $(B)/obj/src/tools/common/quantile.o

# The life-cycle table with a switch of processes before every access to shared memory.
MODEL_OBJ := $(patsubst src/lifecycle/%.c,$(B)/obj/model/%.o,$(wildcard src/lifecycle/*.c))
$(B)/obj/model/%.o: src/lifecycle/%.c
	$(Q)mkdir -p $(@D)
	$(call say,CC,$<)
	$(Q)$(CC) $(CFLAGS) $(COMMON) -DTPV_MODEL -Iinclude -Isrc $(PKG_CFLAGS) -c $< -o $@

$(B)/tests/unit/test_lifecycle_model: $(B)/obj/tests/unit/test_lifecycle_model.o $(MODEL_OBJ) $(TEST_LIB_OBJ) $(LIBA)
	$(Q)mkdir -p $(@D)
	$(call say,LINK,$@)
	$(Q)$(CC) $(LDSAN) $(LDFLAGS) -pthread $^ $(PKG_LIBS) -lcmocka -ldl -o $@


# Libraries that are loaded before all others, to watch or to disturb a program.
$(B)/tests/lib%.so: tests/preload/%.c
	$(Q)mkdir -p $(@D)
	$(call say,LINK,$@)
	$(Q)$(CC) $(OPT) -g $(WARN) $(DEFS) -fPIC -pthread -shared $< -ldl -o $@

# Small net plugins that stand in for somebody else's.
$(B)/tests/lib%.so: tests/nets/%.c
	$(Q)mkdir -p $(@D)
	$(call say,LINK,$@)
	$(Q)$(CC) $(CFLAGS) $(COMMON) $(LDSAN) -Iinclude -shared $< -o $@

tests: all $(UNIT) $(FUNCTIONAL) $(TEST_NETS) $(B)/tests/models/write_views

# One part after the other, also with -j: their closing lines are to be read.
PARTS ?= unit functional python models chaos nccl
check: tests
	+$(Q)MAKE='$(MAKE)' V=$(V) scripts/run-parts $(PARTS)

# Most of the time is spent waiting, so several run at once.
TEST_JOBS ?= 4
check-unit check-functional check-fast: export TEST_JOBS := $(TEST_JOBS)

# One pass: not over every transport.
check-fast: tests
	+$(Q)TEST_FAST=1 MAKE='$(MAKE)' V=$(V) scripts/run-parts unit functional

check-loaded: tests
	+$(Q)MAKE='$(MAKE)' scripts/check-loaded

check-bare:
	$(Q)scripts/check-bare

check-unit: tests
	$(Q)V=$(V) scripts/run-tests $(B) $(UNIT)

check-functional: tests
	$(Q)V=$(V) scripts/run-tests $(B) $(FUNCTIONAL)

check-python: tests
	$(Q)TEST_BUILD=$(abspath $(B)) scripts/run-pytest -n $(TEST_JOBS) --dist worksteal tests --ignore=tests/models

# Every model family's plan against transformers' own loader: makes tiny checkpoints below build/models once.
check-models: tests
	$(Q)TEST_BUILD=$(abspath $(B)) scripts/run-pytest tests/models

# A real vLLM, in an environment of its own below build/vllm (3.5 GB).
check-vllm: all
	$(Q)scripts/get-vllm
	$(Q)TPVIEW_BUILD=$(abspath $(B)) build/vllm/bin/python -m pip install -q --disable-pip-version-check --no-build-isolation \
	  --no-deps --force-reinstall ./python
	$(Q)TEST_BUILD=$(abspath $(B)) build/vllm/bin/python -m pytest -q -s -p no:cacheprovider tests/engines

# Services, ranks and publishers killed and stopped at random. A failed round is named and
# can be replayed:  make chaos SEED=S ROUND=R
chaos: ROUNDS ?= 200
chaos = build/venv/bin/python tests/chaos/chaos.py --build $(B) $(if $(SEED),--seed $(SEED)) $(if $(ROUND),--round $(ROUND))
chaos: all
	$(Q)$(chaos) --rounds $(if $(ROUND),1,$(ROUNDS))

check-chaos: all
	$(Q)$(chaos) --rounds 200

check-asan:
	ASAN_OPTIONS=detect_leaks=1:abort_on_error=0 $(MAKE) B=build/asan SAN=address,undefined OPT=-O1 check PARTS='unit functional'

check-tsan:
	TSAN_OPTIONS=halt_on_error=1:second_deadlock_stack=1:die_after_fork=0 $(MAKE) B=build/tsan SAN=thread OPT=-O1 check PARTS='unit functional'

# ---- longer jobs --------------------------------------------------------------------------------
# A survivor of ROUNDS peers that are killed in the middle of a transfer, over TCP and over the same-host transport; no
# new round after SOAK_SECONDS each.
soak-net: ROUNDS ?= 1000
soak-net: $(PLUGIN) $(B)/tests/functional/test_net_kill
	$(Q)for local in 0 1; do TPVIEW_NET_LOCAL=$$local TEST_ROUNDS=$(ROUNDS) TEST_SECONDS=$(SOAK_SECONDS) \
	  TEST_TIMEOUT=$$(($(SOAK_SECONDS) + 60)) scripts/run-tests $(B) $(B)/tests/functional/test_net_kill || exit 1; done

demo: all
	$(Q)scripts/demo

bench: all
	$(Q)scripts/bench $(BENCH_DIR)

FUZZERS := $(patsubst tests/fuzz/fuzz_%.c,%,$(wildcard tests/fuzz/fuzz_*.c))
fuzz: $(addprefix fuzz-,$(FUZZERS))
FUZZ_FLAGS := -O1 -g -std=c11 -w $(DEFS) -fsanitize=address,undefined -fno-sanitize-recover=all -pthread \
              -Iinclude -Isrc -I$(B)/gen $(PKG_CFLAGS) -MMD -MP
FUZZ_OBJ   := $(patsubst %.c,build/fuzz/obj/%.o,$(LIB_SRC) $(SERVICE_SRC))
build/fuzz/obj/%.o: %.c $(B)/gen/view/families.inc
	$(Q)mkdir -p $(@D)
	$(call say,FUZZ,$<)
	$(Q)$(FUZZ_CC) $(FUZZ_FLAGS) -fsanitize=fuzzer-no-link -c $< -o $@

fuzz-%: tests/fuzz/fuzz_%.c $(FUZZ_OBJ) $(PLUGIN)
	@mkdir -p build/fuzz/$*.corpus
	$(Q)$(FUZZ_CC) $(FUZZ_FLAGS) -fsanitize=fuzzer $< $(FUZZ_OBJ) $(PKG_LIBS) -ldl -o build/fuzz/$*
	NCCL_NET_PLUGIN=$(abspath $(PLUGIN)) build/fuzz/$* -max_total_time=$(FUZZ_SECONDS) -timeout=20 -rss_limit_mb=2048 -print_final_stats=1 \
	  -artifact_prefix=build/fuzz/$*. build/fuzz/$*.corpus $(wildcard tests/fuzz/$*.seeds)

# ---- what is installed beside the programs ---------------------------------------------------------
VERSION := $(shell sed -n 's/.*"\([0-9][0-9.]*\)".*/\1/p' src/client/version.c)
MAN     := $(addprefix $(B)/share/,tpview.1 tpview_perf.1 tpview_net_perf.1 tpviewd.8)
$(B)/share/tpview.1: WHAT := tensor-parallel views of model weights
$(B)/share/tpview_perf.1: WHAT := how fast ranks get their views
$(B)/share/tpview_net_perf.1: WHAT := what a net plugin carries beside NCCL sockets, TCP and UCX
$(B)/share/tpviewd.8: WHAT := view-export service
$(filter %.1,$(MAN)): $(B)/share/%.1: $(B)/bin/%
$(filter %.8,$(MAN)): $(B)/share/%.8: $(B)/bin/%
$(MAN): scripts/help-to-man src/client/version.c
	$(call say,MAN,$@)
	@mkdir -p $(@D)
	$(Q)scripts/help-to-man $(filter $(B)/bin/%,$^) '$(WHAT)' $(subst .,,$(suffix $@)) $(VERSION) >$@

# Both name where they are installed.
.PHONY: $(B)/share/tpviewd.service $(B)/share/tpview.pc
$(B)/share/tpviewd.service $(B)/share/tpview.pc: $(B)/share/%: packaging/%.in
	$(call say,MAKE,$@)
	@mkdir -p $(@D)
	$(Q)sed 's|@PREFIX@|$(PREFIX)|g; s|@BINDIR@|$(PREFIX)/bin|g; s|@VERSION@|$(VERSION)|g' $< >$@

lint:
	$(Q)scripts/lint

install: all $(MAN) $(B)/share/tpviewd.service $(B)/share/tpview.pc
	install -d $(DESTDIR)$(PREFIX)/bin $(DESTDIR)$(PREFIX)/lib $(DESTDIR)$(PREFIX)/include/tpview
	install -m 755 $(BINS) $(DESTDIR)$(PREFIX)/bin
	install -m 755 $(PLUGIN) $(LIB) $(DESTDIR)$(PREFIX)/lib
	install -m 644 include/tpview/*.h $(DESTDIR)$(PREFIX)/include/tpview
	install -d $(addprefix $(DESTDIR)$(PREFIX)/,lib/pkgconfig share/man/man1 share/man/man8 \
	  share/bash-completion/completions lib/systemd/system lib/sysusers.d lib/tmpfiles.d)
	install -m 644 $(filter %.1,$(MAN)) $(DESTDIR)$(PREFIX)/share/man/man1
	install -m 644 $(filter %.8,$(MAN)) $(DESTDIR)$(PREFIX)/share/man/man8
	install -m 644 packaging/tpview.bash-completion $(DESTDIR)$(PREFIX)/share/bash-completion/completions/tpview
	for program in tpviewd tpview_perf tpview_net_perf; do \
	  ln -sf tpview $(DESTDIR)$(PREFIX)/share/bash-completion/completions/$$program; done
	install -m 644 $(B)/share/tpviewd.service $(DESTDIR)$(PREFIX)/lib/systemd/system
	install -m 644 packaging/tpview.sysusers $(DESTDIR)$(PREFIX)/lib/sysusers.d/tpview.conf
	install -m 644 packaging/tpview.tmpfiles $(DESTDIR)$(PREFIX)/lib/tmpfiles.d/tpview.conf
	install -m 644 $(B)/share/tpview.pc $(DESTDIR)$(PREFIX)/lib/pkgconfig

clean:
	rm -rf $(B)/obj $(B)/gen $(B)/bin $(B)/lib $(B)/tests build/asan build/tsan build/fuzz build/bench

include tests/simgpu/simgpu.mk

-include $(shell find $(B)/obj build/fuzz/obj -name '*.d' 2>/dev/null)
