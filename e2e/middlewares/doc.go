// Package middlewares tests streams over plain HTTP behind Fiber's middlewares that need more than Fiber itself.
package middlewares
