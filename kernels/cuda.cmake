# Finds CUDA, or leaves ICD_WITH_CUDA off. Included by the top CMakeLists.txt and not by the
# one beside this file: a language has to be enabled above everything that links its code.
#
# ICD_CUDA                  AUTO: where nvcc is found; ON: or stop here; OFF
# CMAKE_CUDA_ARCHITECTURES  what to compile for; unset, every generation the compiler knows

set(ICD_WITH_CUDA OFF)
if(NOT ICD_CUDA MATCHES "^(AUTO|ON|OFF)$")
  message(FATAL_ERROR "ICD_CUDA is '${ICD_CUDA}', expected AUTO, ON or OFF")
endif()
if(ICD_CUDA STREQUAL "OFF")
  message(STATUS "CUDA: OFF (asked for)")
  return()
endif()

# nvcc is often installed and not on PATH. The environment, not CMAKE_CUDA_COMPILER, carries
# what is found: a compiler set beforehand is not checked, and a broken one would be an error.
if(NOT CMAKE_CUDA_COMPILER)
  unset(CMAKE_CUDA_COMPILER CACHE)  # the "no" of an earlier run, before nvcc was installed
  if(NOT DEFINED ENV{CUDACXX})
    find_program(ICD_NVCC nvcc HINTS ENV CUDA_PATH ENV CUDA_HOME /usr/local/cuda /opt/cuda
                 PATH_SUFFIXES bin)
    mark_as_advanced(ICD_NVCC)
    if(ICD_NVCC)
      set(ENV{CUDACXX} ${ICD_NVCC})
    elseif(ICD_CUDA STREQUAL "ON")
      message(FATAL_ERROR "ICD_CUDA is ON, but there is no nvcc on PATH, in CUDA_PATH, CUDA_HOME or "
                          "/usr/local/cuda; name it with -DCMAKE_CUDA_COMPILER=/path/to/nvcc")
    else()
      message(STATUS "CUDA: OFF (no nvcc)")
      return()
    endif()
  endif()
endif()

include(CheckLanguage)
check_language(CUDA)
if(NOT CMAKE_CUDA_COMPILER)
  if(ICD_CUDA STREQUAL "ON")
    message(FATAL_ERROR "ICD_CUDA is ON, but $ENV{CUDACXX} compiles nothing; the reason is in "
                        "${CMAKE_BINARY_DIR}/CMakeFiles/CMakeError.log")
  endif()
  message(STATUS "CUDA: OFF ($ENV{CUDACXX} compiles nothing, see CMakeFiles/CMakeError.log)")
  return()
endif()

# 75 is known to every compiler from 11 to 13; CMake 3.25's own first guess, 52, is not.
set(ICD_CUDA_DEFAULT_LIST OFF)
if(NOT DEFINED CMAKE_CUDA_ARCHITECTURES AND NOT DEFINED ENV{CUDAARCHS})
  set(ICD_CUDA_DEFAULT_LIST ON)
  set(CMAKE_CUDA_ARCHITECTURES 75)
endif()
enable_language(CUDA)
if(ICD_CUDA_DEFAULT_LIST)  # the last entry also brings PTX, for what comes after it
  if(CMAKE_CUDA_COMPILER_VERSION VERSION_GREATER_EQUAL 12.8)
    set(CMAKE_CUDA_ARCHITECTURES 75-real 80-real 86-real 89-real 90-real 100-real 120)
  else()
    set(CMAKE_CUDA_ARCHITECTURES 75-real 80-real 86-real 89-real 90)
  endif()
endif()

# Debian 12's CMake 3.25.1 does not know nvcc's C++20, nor does nvcc 11.8; it has to be said,
# or CUDA inherits the 20 of the host's code.
set(CMAKE_CUDA_STANDARD 17)
set(CMAKE_CUDA_STANDARD_REQUIRED ON)
set(CMAKE_CUDA_EXTENSIONS OFF)

find_package(CUDAToolkit REQUIRED)
set(ICD_WITH_CUDA ON)
list(JOIN CMAKE_CUDA_ARCHITECTURES " " ICD_CUDA_ARCHITECTURES)
message(STATUS "CUDA: ${CMAKE_CUDA_COMPILER_VERSION} for ${ICD_CUDA_ARCHITECTURES}")
