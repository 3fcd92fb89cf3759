// Package deep is internal.
package deep
