# mediasoup's worker from the source in its npm package, where the package's own download and build cannot be: other
# libraries take the place of those that its build would fetch. `docs/guides/benchmarks.md` says which, and how to call it.
#
#   make -j2 -f worker.mk SOURCE=…/node_modules/mediasoup/worker OUT=… OPENSSL=… SRTP=… URING=…
#
# OPENSSL, SRTP and URING are built source trees of OpenSSL, libsrtp and liburing.

OPTIMISED := -O3 -DNDEBUG -std=c++20 -w
DEFINES := -DMS_LITTLE_ENDIAN -DMS_EXECUTABLE -DMS_LIBURING_SUPPORTED -DFLATBUFFERS_LOCALE_INDEPENDENT=1
HERE := $(dir $(lastword $(MAKEFILE_LIST)))
INCLUDES := -include $(HERE)srtp2_as_3.hpp -I$(OPENSSL)/include -I$(URING)/src/include -I$(SRTP)/include \
    -I$(SRTP)/crypto/include -I$(SOURCE)/include -I$(OUT) -I$(SOURCE)/deps/libwebrtc -I$(SOURCE)/deps/libwebrtc/libwebrtc
ABSEIL := absl_flat_hash_map absl_flat_hash_set absl_btree absl_inlined_vector absl_optional absl_strings
LIBRARIES := $(SRTP)/libsrtp2.a $(URING)/src/liburing.a $(OPENSSL)/libssl.a $(OPENSSL)/libcrypto.a \
    -lusrsctp -luv -lflatbuffers $(shell pkg-config --libs $(ABSEIL)) -lpthread -ldl
SOURCES := $(shell cd $(SOURCE) && find src deps/libwebrtc -name '*.cpp' -o -name '*.cc')
OBJECTS := $(SOURCES:%=$(OUT)/%.o)

$(OUT)/mediasoup-worker: $(OBJECTS)
	$(CXX) -o $@ $^ $(LIBRARIES)

$(OUT)/%.o: $(SOURCE)/% | $(OUT)/FBS
	@mkdir -p $(dir $@)
	$(CXX) $(OPTIMISED) $(DEFINES) $(INCLUDES) -c -o $@ $<

# Its schemas; the npm package speaks the same to it. Moved at the end, so that what failed is not there.
$(OUT)/FBS:
	flatc --cpp --cpp-field-case-style lower --reflect-names --scoped-enums --filename-suffix '' -o $@.part/ \
	    $(SOURCE)/fbs/*.fbs
	mv $@.part $@
