// Package apitest checks a running snipdb from outside, with nothing but HTTP.
// The tests of httpapi run it against a backend in memory, those of
// cmd/snipdb against real nodes.
package apitest
