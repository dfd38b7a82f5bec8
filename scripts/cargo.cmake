# Builds xvla and xvla_node during `install` and puts them into lib/xvla_ros.

if("$ENV{LIBTORCH}" STREQUAL "")
  message(FATAL_ERROR "LIBTORCH is not set: run `source scripts/env.sh` before colcon, or name a libtorch 2.11 in it")
endif()

find_program(CARGO cargo HINTS $ENV{HOME}/.cargo/bin REQUIRED)
set(XVLA_CARGO_TARGET ${CMAKE_CURRENT_BINARY_DIR}/cargo)

# r2r does not notice that a message changed under an unchanged path; building on would disagree about layouts silently.
file(GLOB XVLA_MESSAGE_FILES CONFIGURE_DEPENDS ${CMAKE_CURRENT_SOURCE_DIR}/msg/*.msg)
set(XVLA_MESSAGES_HASH "")
foreach(file IN LISTS XVLA_MESSAGE_FILES)
  file(SHA256 ${file} hash)
  string(APPEND XVLA_MESSAGES_HASH ${hash})
endforeach()
set_property(DIRECTORY APPEND PROPERTY CMAKE_CONFIGURE_DEPENDS ${XVLA_MESSAGE_FILES})

configure_file(${CMAKE_CURRENT_LIST_DIR}/run_cargo.cmake.in ${CMAKE_CURRENT_BINARY_DIR}/run_cargo.cmake @ONLY)
install(SCRIPT ${CMAKE_CURRENT_BINARY_DIR}/run_cargo.cmake)
install(PROGRAMS
  ${XVLA_CARGO_TARGET}/release/xvla
  ${XVLA_CARGO_TARGET}/release/xvla_node
  DESTINATION lib/${PROJECT_NAME})
# Beside the programs, where backtraces look for their line numbers; none on a machine without objcopy.
install(FILES
  ${XVLA_CARGO_TARGET}/release/xvla.debug
  ${XVLA_CARGO_TARGET}/release/xvla_node.debug
  DESTINATION lib/${PROJECT_NAME} OPTIONAL)
